"""Training of the two small models that ship with Sensorium. Needs torch; never imported by the product."""

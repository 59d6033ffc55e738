"""`sensorium verify-checkpoint`: what a checkpoint must agree with, from its files to the reference's own numbers."""

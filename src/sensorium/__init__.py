"""Sensorium: one endpoint through which programs and agents see, draw, hear and speak."""

__version__ = "0.1.0"

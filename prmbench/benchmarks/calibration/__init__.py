"""Calibration: prefix values as probabilities of a right answer."""

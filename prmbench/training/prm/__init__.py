"""Explicit process reward models: trained on a label for every step."""

"""Bridges to other tools: lm-eval."""

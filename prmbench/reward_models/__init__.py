"""Reward models: one file a kind, a registry, and the checkpoint card."""

"""Entries and items: what an evaluation leaves behind, so that every number can be traced and recomputed."""

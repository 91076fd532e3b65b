"""Benchmarks: a subject and data give an entry."""

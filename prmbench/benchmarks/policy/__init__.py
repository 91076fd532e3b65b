"""Policies on problem sets: avg@k, pass@k, maj@k."""

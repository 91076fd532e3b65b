"""Pure NumPy statistics. Nothing here imports from the rest of prmbench."""

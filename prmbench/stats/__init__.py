"""Statistics on arrays. Nothing here imports from the rest of prmbench.

SciPy and scikit-learn do what they do as well. They are imported inside the functions that need them, because each takes a
good part of a second to import.
"""

"""Solutions with a label for every step."""

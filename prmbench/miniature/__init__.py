"""The miniature: a synthetic arithmetic world whose every step can be checked, and tiny models trained in it from scratch."""

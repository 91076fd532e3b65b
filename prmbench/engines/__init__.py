"""Where tokens are computed."""

"""Step scores for a user's own solutions."""

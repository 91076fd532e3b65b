"""Policies: loading them and sampling completions from them."""

"""Candidate sets: how many tokens a policy finds likely, against P_min (Table 11)."""

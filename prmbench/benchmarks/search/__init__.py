"""Guided search: does a reward model help while the answer is being written, at equal compute?"""

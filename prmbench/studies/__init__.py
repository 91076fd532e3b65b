"""The studies: the paper's tables and claims, run in the miniature."""

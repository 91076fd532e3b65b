"""`prmbench replicate`: the paper's tables in the miniature, and a verdict for every claim."""

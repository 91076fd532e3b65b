"""The paper's tables and figure in the miniature, from one command."""

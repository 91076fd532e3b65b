"""Problems, traces and rollouts: formats, loading, prompts and token spans."""

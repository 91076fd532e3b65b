"""Best-of-N: how often the completion that a reward model scores highest is right."""

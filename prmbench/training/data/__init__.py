"""Training data: chats and pairs of rollouts."""

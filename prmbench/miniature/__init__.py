"""The miniature: a synthetic, verifiable, step-checkable arithmetic world and tiny models trained in it from scratch."""

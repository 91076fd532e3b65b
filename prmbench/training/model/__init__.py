"""What every training does with a model: forward passes, log-probabilities, saving."""

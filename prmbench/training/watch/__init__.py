"""What a person sees of a training while it runs: figures, trackers, samples, and a stop that loses nothing."""

"""The engine that runs models with transformers."""

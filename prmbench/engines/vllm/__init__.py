"""The engine that runs models with vLLM."""

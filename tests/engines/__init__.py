"""A package, so that pytest does not put this folder on sys.path, where its folder `vllm` would be taken for the library."""

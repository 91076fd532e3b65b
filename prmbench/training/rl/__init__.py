"""Policy optimisation: DistRL and its rivals. The algorithm is pure functions, one idea a module."""

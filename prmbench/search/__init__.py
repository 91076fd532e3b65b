"""Search guided by a reward model: paths of steps, the methods that grow them, and what growing them costs."""

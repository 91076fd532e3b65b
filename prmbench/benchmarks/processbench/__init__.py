"""ProcessBench: does a reward model find the first wrong step of a solution?"""

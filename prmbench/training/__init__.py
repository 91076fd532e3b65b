"""The training subpackage: recipes in, checkpoints out that go back into the harness."""

"""`python -m prmbench` is `prmbench`."""

from prmbench.cli.app import program

program()

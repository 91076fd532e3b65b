"""Step scores over HTTP: `prmbench serve`."""

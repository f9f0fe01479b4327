"""Compare candidates: run a grid of settings, or read finished runs, and say which to take."""

"""One training run, from arguments to summary."""

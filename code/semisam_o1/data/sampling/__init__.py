"""Volumes in memory, and the batches of patches drawn from them."""

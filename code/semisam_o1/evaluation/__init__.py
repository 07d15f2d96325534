"""How good a segmentation is, and what a person gets to see of it."""

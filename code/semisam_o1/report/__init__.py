"""Results of a run as one page."""

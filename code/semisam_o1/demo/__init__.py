"""The synthetic cohort, and what training gains on it."""

"""Between rounds: label the cohort anew, and let neighbours vote where the model is unsure."""

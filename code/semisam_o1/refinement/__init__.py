"""Between rounds: label the cohort anew, and let neighbors vote where the model is unsure."""

"""Round 0: the template's label spread over the cohort."""

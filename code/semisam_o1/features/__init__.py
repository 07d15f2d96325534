"""What every scan of a cohort looks like to a model that has seen many: computed once per scan, kept on disk."""

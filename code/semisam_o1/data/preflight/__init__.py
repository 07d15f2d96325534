"""Everything that is wrong with a dataset, found before anything is computed."""

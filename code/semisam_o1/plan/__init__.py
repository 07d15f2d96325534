"""The plan of a run: from facts about scans and machine to every setting that was not given."""

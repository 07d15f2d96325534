"""Features of the volumes of a cohort: computed once per volume, cached on disk."""

"""A dataset on disk: volumes, lists, geometry, cached arrays."""

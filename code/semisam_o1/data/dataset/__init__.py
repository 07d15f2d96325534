"""A dataset on disk: volumes, lists, geometry, array cache."""

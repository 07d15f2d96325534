"""Building blocks without knowledge of medical images."""

"""The ground floor: what knows nothing of medicine."""

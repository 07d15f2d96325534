"""Curves and label outlines as pictures."""

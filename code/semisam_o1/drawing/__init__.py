"""Curves, and slices with the outlines of their labels."""

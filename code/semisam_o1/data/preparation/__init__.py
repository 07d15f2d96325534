"""Scans of any source turned into a dataset."""

"""Volumes and their lists, checked, decoded once, cropped and batched."""

"""Inference on whole volumes, and metrics of segmentations."""

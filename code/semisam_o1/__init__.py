"""SemiSAM-O1: segment a cohort of 3-D medical scans from one labeled volume."""

from pathlib import Path

__version__ = "0.1.0"

PROJECT_ROOT = Path(__file__).resolve().parents[2]

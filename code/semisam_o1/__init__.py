"""SemiSAM-O1: segment a cohort of 3-D medical scans from one labeled volume."""

import os
from pathlib import Path

# Threads of OpenMP that wait by spinning take the cores from whatever runs beside them. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_PARENT = Path(__file__).resolve().parents[2]
IS_CHECKOUT = (_PARENT / "code" / "train_SemiSAM_O1.py").is_file()
PROJECT_ROOT = _PARENT if IS_CHECKOUT else Path.cwd()
"""Folder of data/, model/ and pretrained_ckpt/: the checkout, or the working directory of an installed package."""

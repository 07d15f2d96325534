"""Puts the package on the path, so that every benchmark runs from any folder as it is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

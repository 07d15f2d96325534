"""A trained model in one file: an archive of its weights, of what describes it, and of a card for people.

It names no scan and no folder of the machine that it was trained on.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semisam_o1.core.atomic_io import write_bytes
from semisam_o1.core.errors import InputError
from semisam_o1.core.safe_load import read_record

SUFFIX = ".zip"
DESCRIPTION, WEIGHTS, CARD = "model.json", "weights.pth", "card.md"
FORMAT = 1
MAX_DESCRIPTION = 2**20  # bytes
WRITTEN = (1980, 1, 1, 0, 0, 0)  # date of the records: the same model is the same file


def is_bundle(name: str | Path | None) -> bool:
    """Return whether a name is that of such a file, by its ending."""
    return name is not None and str(name).lower().endswith(SUFFIX)


def write_bundle(path: Path, description: Mapping[str, Any], weights: Mapping[str, torch.Tensor], card: str) -> None:
    """Write a bundle, completely or not at all.

    Args:
        description: what ``read_bundle`` returns again, as JSON.
        weights: state dict of the network.

    Raises:
        WriteError: if the file cannot be written.
    """
    stored, archive = io.BytesIO(), io.BytesIO()
    torch.save(dict(weights), stored)
    text = json.dumps({"format": FORMAT, **description}, indent=2)
    records = {CARD: card.encode(), DESCRIPTION: text.encode(), WEIGHTS: stored.getvalue()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, content in records.items():
            file.writestr(zipfile.ZipInfo(name, WRITTEN), content)
    write_bytes(path, archive.getbuffer())


def read_bundle(path: Path) -> dict[str, Any]:
    """Return the description of a bundle.

    Raises:
        InputError: if the file is missing, damaged, or no bundle of a known format.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; name a run, or a file that export.py wrote")
    try:
        content = json.loads(read_record(path, DESCRIPTION, MAX_DESCRIPTION))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("arguments"), dict):
        raise InputError(f"{path}: its {DESCRIPTION} describes no model; get a whole copy of it")
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has the format {content.get('format')!r}, this version reads {FORMAT}; update it")
    return content

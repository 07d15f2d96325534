"""What a run says of itself: console and log.txt, metrics.jsonl, TensorBoard. Rank 0 alone writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from .. import distributed
from ..run_folder import RunFolder

OVERLAY_SIDE = 320  # pixels, of the longer side of a slice overlay, at the least


class Tracker:
    """Writes into a run folder.

    Args:
        folder: of the run; exists.
        since: of a run that goes on: what was logged at this step or later is done again, and is dropped.
    """

    def __init__(self, folder: RunFolder, since: int | None = None):
        self._main = distributed.is_main()
        if self._main:
            if since is not None:
                _drop_lines(folder.metrics, since)
            self._log = folder.log.open("a", encoding="utf-8")
            self._metrics = folder.metrics.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=since)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            self._board.close()
            self._log.close()
            self._metrics.close()

    def say(self, text: str) -> None:
        """Print a line and keep it in log.txt."""
        if self._main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
            self._log.write(text + "\n")
            self._log.flush()

    def log(self, step: int, values: Mapping[str, float], **context: int | float | str) -> None:
        """Log scalars of one step, counted over all rounds, to TensorBoard and as one JSON object.

        Args:
            values: by TensorBoard tag.
            context: joins the JSON object only, such as round and iteration.
        """
        if self._main:
            for tag, value in values.items():
                self._board.add_scalar(tag, value, step)
            self._metrics.write(json.dumps({"step": step, **context, **values}) + "\n")
            self._metrics.flush()

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Log an RGB picture (3, rows, columns) with values from 0 to 1."""
        if self._main:
            self._board.add_image(tag, pixels, step)


def overlay(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return a slice as RGB (3, rows, columns): label outlined in blue, prediction in orange, both in white.

    Small slices are enlarged first, so that an outline does not cover what it surrounds.

    Args:
        image, label, prediction: (rows, columns).
    """
    factor = -(-OVERLAY_SIDE // max(image.shape))
    image, label, prediction = (a.repeat(factor, 0).repeat(factor, 1) for a in (image, label, prediction))
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    pixels = np.stack([grey] * 3).astype(np.float32)
    outlines = ((_outline(label), (0.0, 0.6, 1.0)), (_outline(prediction), (1.0, 0.6, 0.0)))
    pixels[:, outlines[0][0] | outlines[1][0]] = 0
    for outline, colour in outlines:
        pixels[:, outline] = np.minimum(pixels[:, outline] + np.array(colour)[:, None], 1)
    return pixels


def _outline(label: np.ndarray) -> np.ndarray:
    """Return the foreground pixels with a neighbour of another class to the right or below, or the reverse."""
    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        changes = np.diff(label, axis=axis) != 0
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= changes
        edge[tuple(second)] |= changes
    return edge & (label > 0)


def _drop_lines(path: Path, since: int) -> None:
    if path.is_file():
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] < since:
                    kept.append(line)
            except (ValueError, KeyError):  # the line that a kill cut off
                continue
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

"""The label of one scan of a run's dataset: the user's own mask, the label of a round, or the network's prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from semisam_o1.commands.export import to_original_grid, write_image
from semisam_o1.commands.own_masks import read_own_mask
from semisam_o1.commands.predict_config import PredictConfig
from semisam_o1.commands.trained import LoadedModel
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, VolumeHeader
from semisam_o1.data.preparation.formats import stem
from semisam_o1.data.preparation.grid import resample, resample_label
from semisam_o1.data.preparation.settings import Classes, Preparation
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundLabels, open_round

OWN, ROUND, NETWORK, NONE = "own mask", "round", "network", "none"
MAX_CHANGE = 0.02  # share of foreground voxels in which a mask may differ from what was prepared from it


@dataclass(frozen=True)
class CohortScan:
    """A scan of the dataset and where its label comes from.

    Attributes:
        list_name: the list that names it, empty for a scan in no list.
        origin: OWN, ROUND, NETWORK or NONE.
        path: the file to write.
        confidence: the file for the probability of the label, None where none is written.
        uncertainty: of the round's label, mean entropy in nats; None where it is not known.
        expected: Dice of every foreground class that is expected of the label; None where it is not known.
    """

    header: VolumeHeader
    list_name: str
    origin: str
    path: Path
    confidence: Path | None = None
    uncertainty: float | None = None
    expected: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RoundFiles:
    """The open labels of a round, and the probability of each voxel's label where that is asked for."""

    labels: RoundLabels
    confidences: RoundLabels | None = None


@contextlib.contextmanager
def open_files(folder: RunFolder, round_: int, confidences: bool) -> Iterator[RoundFiles]:
    """Open the files of a round.

    Raises:
        InputError: if a file is damaged, or the run kept no probabilities of the round.
    """
    path = folder.confidence(round_)
    with contextlib.ExitStack() as stack:
        labels = stack.enter_context(open_round(folder.pseudo_labels(round_)))
        if confidences and not path.is_file():
            raise InputError(
                f"{path} is missing: the run kept no probabilities of round {round_}; choose another --round"
            )
        yield RoundFiles(labels, stack.enter_context(open_round(path)) if confidences else None)


@dataclass(frozen=True)
class LabelWriter:
    """Writes the files of one scan after the other.

    Attributes:
        settings, classes: of the preparation of the dataset.
        model: the network, None where no scan is predicted.
    """

    dataset: Dataset
    settings: Preparation
    classes: Classes
    files: RoundFiles
    model: LoadedModel[PredictConfig] | None

    def write(self, scan: CohortScan) -> CohortScan:
        """Write the label map of a scan and the map of its probabilities; return the scan with what is expected."""
        header = scan.header
        original, confidence = header.original or header.grid, None
        if scan.origin == NETWORK:
            volume = self.dataset.load(header.name)
            on_grid, expected = self.model.predict(volume)
            probabilities = to_original_grid(on_grid, volume)
            label, confidence = self.model.label_map(probabilities), probabilities.max(axis=0)
            scan = replace(scan, expected=expected)
        elif scan.origin == OWN:
            label = self._own(header)
        else:
            label = resample_label(self.files.labels.label(header.name), header.grid, original)
            if scan.confidence:
                shares = self.files.confidences.label(header.name).astype(np.float32) / 255
                confidence = resample(shares, header.grid, original, outside=1)
        write_image(scan.path, label, original.geometry, header.source, self.classes.names)
        if scan.confidence and confidence is not None:
            write_image(scan.confidence, confidence.astype(np.float32), original.geometry, header.source)
        return scan

    def _own(self, header: VolumeHeader) -> np.ndarray:
        """Return the user's mask on the grid of the scan's file: from its own file, as long as that is unchanged."""
        original, prepared = header.original or header.grid, self.dataset.label(header.name)
        if header.mask and stem(Path(header.mask)) and not self.dataset.binary_label:
            with contextlib.suppress(InputError, ValueError):  # moved, or replaced by something else
                mask = read_own_mask(header, Path(header.mask), original, self.settings, self.classes)
                nearest = self.settings.label_interpolation == "nearest"
                now = resample_label(mask, original, header.grid, nearest=nearest)
                foreground = np.count_nonzero((now > 0) | (prepared > 0))
                if np.count_nonzero(now != prepared) <= MAX_CHANGE * foreground:
                    return mask
        return resample_label(prepared, header.grid, original)

"""Which round of a run is the best one, and which one a network is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, known_records


def best_round(records: Sequence[RoundRecord]) -> RoundRecord:
    """Return the round whose network is the run's best model; round 0 where none was trained.

    It has the highest validation Dice and is the first of equals. Without validation it is the last round whose labels
    were not refused.
    """

    def quality(record: RoundRecord) -> tuple[bool, bool, float]:
        if record.validation_dice is not None:
            return record.trained, True, record.validation_dice
        return record.trained, not record.refused, record.round

    return max(records, key=quality)


def record_of(folder: RunFolder, checkpoint: Path) -> RoundRecord | None:
    """Return the record of the round that a network is the best one of, None for another file.

    Raises:
        InputError: if the table of rounds of a run that is passed on is damaged.
    """
    records = [record for record in known_records(folder) if record.trained]
    by_file = {folder.round_best(record.round): record for record in records}
    return (by_file | ({folder.best_model: best_round(records)} if records else {})).get(checkpoint)


def improves(dice: float | None, earlier: Sequence[RoundRecord]) -> bool:
    """Return whether a network validates better than every earlier one whose labels were accepted, if there is any."""
    accepted = [record.validation_dice for record in earlier if record.trained and not record.refused]
    return dice is not None and bool(accepted) and dice > max(accepted)

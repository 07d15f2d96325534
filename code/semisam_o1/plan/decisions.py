"""Decisions with their reasons, and what is told before training where it cannot go well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1.core.atomic_io import read_json
from semisam_o1.core.errors import InputError
from semisam_o1.core.terminal import duration, text_table
from semisam_o1.plan.facts import Scans, Template

MIN_SCANS = 3  # in training
VISIBLE_VOXELS = 27  # of a class of the template, a cube of three voxels
AS_GIVEN = "as given"


@dataclass(frozen=True)
class Decision:
    """A setting: the flag that overrides it, its value, and its reason, half a line."""

    flag: str  # without the dashes
    value: Any
    reason: str

    @property
    def text(self) -> str:
        """The value as it is typed."""
        return " ".join(map(str, self.value)) if isinstance(self.value, (tuple, list)) else str(self.value)


@dataclass(frozen=True)
class Plan:
    """All settings that a run was planned with, and the seconds that it is predicted to take (None: not known)."""

    decisions: tuple[Decision, ...]
    seconds: float | None = None

    @property
    def flags(self) -> list[str]:
        return [decision.flag for decision in self.decisions]

    def to_json(self) -> dict[str, Any]:
        rows = [{"flag": d.flag, "value": d.value, "reason": d.reason} for d in self.decisions]
        return {"seconds": self.seconds, "decisions": rows}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """Take back what ``to_json`` returned; raises KeyError or TypeError if it is something else."""
        rows = (Decision(str(row["flag"]), row["value"], str(row["reason"])) for row in content["decisions"])
        return cls(tuple(rows), content["seconds"])

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (flag, value, reason) of every decision, as they are shown."""
        return [(f"--{d.flag}", d.text, d.reason) for d in self.decisions]

    def table(self) -> str:
        """Return the plan as text, a line per decision."""
        lines = text_table([("plan", "", "why"), *self.rows()], "<")
        lines += [f"predicted time: {duration(self.seconds)}"] if self.seconds is not None else []
        return "\n".join(lines)


def read_plan(path: Path) -> Plan | None:
    """Return the plan in a file, None where there is none; raises InputError if the file is damaged."""
    remedy = "delete it"
    content = read_json(path, remedy)
    try:
        return None if content is None else Plan.from_json(content)
    except (KeyError, TypeError):
        raise InputError(f"{path} holds no plan; {remedy}") from None


def remarks(scans: Scans) -> Iterator[str]:
    """Yield a sentence with its remedy on everything that will keep a run from going well."""
    count = scans.labeled + scans.unlabeled
    if count < MIN_SCANS:
        yield f"{count} scans to train on show too little of how anatomy varies; add scans without a label"
    if scans.template is not None:
        yield from _template_remarks(scans.template)


def _template_remarks(template: Template) -> Iterator[str]:
    for c, voxels in enumerate(template.class_voxels, start=1):
        if 0 < voxels < VISIBLE_VOXELS:
            few = f"class {c} of the template covers {voxels} voxels, fewer than {VISIBLE_VOXELS} are too few"
            yield f"{few}; prepare the scans with a finer spacing"


def memory_fault(patch: Sequence[int], needed: float, available: float, fitting: Sequence[int]) -> str | None:
    """Return a sentence if a training step needs more memory than there is, None if it fits.

    Args:
        needed, available: bytes.
        fitting: a patch that fits.
    """
    if needed <= available:
        return None
    sides, remedy = (" ".join(map(str, size)) for size in (patch, fitting))
    return (
        f"a training step on patches of {sides} needs about {needed / 2**30:.1f} GiB of memory, there are "
        f"{available / 2**30:.1f}; --patch_size {remedy} fits"
    )

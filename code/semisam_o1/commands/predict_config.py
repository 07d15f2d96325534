"""Configuration of ``predict.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semisam_o1.commands.trained import TrainedConfig
from semisam_o1.core.flags import AT_LEAST_0, assign, option


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedConfig):
    """Flags of ``predict.py``."""

    scans: tuple[Path, ...] = option((), "image files, folders of them or of a DICOM series", nargs="+", metavar="PATH")
    cohort: bool = option(False, "label every scan of the run's dataset instead")
    out: Path = option(None, "folder for the label maps", required=True, metavar="DIR")
    probabilities: bool = option(
        False, "also write the probability of every foreground class; with --cohort, that of each voxel's label"
    )
    uncertainty: bool = option(False, "also write the entropy of the class probabilities, in nats")
    round: int | None = option(
        None, "with --cohort: the round whose labels are written (default: the best)", AT_LEAST_0, metavar="R", type=int
    )
    own_masks: bool = option(
        True, "with --cohort: your own masks where there are any; off: what the run makes of those"
    )
    preparation: Path | None = option(None, "preparation.json of the data (default: from the run)", metavar="FILE")
    root_path: Path | None = option(None, "with --cohort: the dataset folder, if it was moved", metavar="DIR")
    continue_on_error: bool = option(
        False, "skip scans that cannot be segmented; they are listed, and the exit code is 1"
    )
    skip_existing: bool = option(False, "go on: leave out the scans whose files exist already")
    overwrite: bool = option(False, "replace files that an earlier call wrote")

    def __post_init__(self) -> None:
        assign(self, scans=tuple(Path(path).expanduser() for path in self.scans), out=Path(self.out).expanduser())
        if self.ckpt is not None and (self.exp is None or Path(self.ckpt).is_file()):
            assign(self, ckpt=str(Path(self.ckpt).expanduser().resolve()))
        super().__post_init__()

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.exp is None and self.ckpt is None:
            faults.append("--exp is missing; name the experiment, or a checkpoint with --ckpt")
        if self.cohort == bool(self.scans):
            faults.append("give either --scans (files or folders to segment) or --cohort (the run's own scans)")
        if self.cohort and self.uncertainty:
            faults.append(
                "--uncertainty needs the probability of every class, of which a run keeps that of the label; "
                "with --cohort use --probabilities, or give the scans with --scans"
            )
        if self.overwrite and self.skip_existing:
            faults.append("--overwrite replaces files and --skip_existing keeps them; use one of the two")
        return faults

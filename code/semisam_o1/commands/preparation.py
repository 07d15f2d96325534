"""Medical images turned into a dataset: the flags of every layout, the preparation, and the command that comes next."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semisam_o1 import PROJECT_ROOT
from semisam_o1.commands.preparation_advice import draw_filled_masks, next_steps
from semisam_o1.core.errors import InputError, listed
from semisam_o1.core.flags import CommandConfig, add_flags, join_switches, option
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation import sources
from semisam_o1.data.preparation.convert import Conversion, convert
from semisam_o1.data.preparation.formats import SUFFIXES
from semisam_o1.data.preparation.lists import LISTS, ListOptions, chosen_lists, standard_lists
from semisam_o1.data.preparation.settings import Preparation, spacing_mm
from semisam_o1.data.preparation.sources import FoundScans
from semisam_o1.data.preparation.summary import describe

EXAMPLES = """examples:
  prepare_data.py la ~/2018LA_Seg_Training_Set
  prepare_data.py la ~/2018LA_Seg_Training_Set data/LA_half --spacing 1.25
  prepare_data.py nifti --images scans --labels masks --template patient_07 --spacing auto data/mine
  prepare_data.py nifti --images ct --labels masks --template p1 --window abdomen --spacing 1.5 --crop body data/ct
  prepare_data.py nnunet Task04_Hippocampus --template hippocampus_001 data/hippocampus
  prepare_data.py brats MICCAI_BraTS_2019_Data_Training --modality flair --label_map 4=3 data/BraTS2019
"""
LAYOUTS = {
    "la": "the public copy of the 2018 Left Atrium challenge: a folder with NAME/mri_norm2.h5",
    "nifti": f"your own scans: files ({', '.join(SUFFIXES)}) or a folder with a DICOM series each",
    "nnunet": "a dataset of nnU-Net or of the Medical Segmentation Decathlon: a folder with dataset.json",
    "brats": "a BraTS release: a folder per scan, anywhere below",
}
ALIASES = {"nifti": ["dicom"], "nnunet": ["decathlon"]}
DEFAULTS = {"la": {"orientation": "keep", "intensity": "keep"}, "brats": {"intensity": "zscore-nonzero"}}
STANDARD_LA = PROJECT_ROOT / "data" / "LA"
STANDARD_BRATS = PROJECT_ROOT / "data" / "BraTS2019"


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(ListOptions, Conversion, CommandConfig):
    """Everything that ``prepare_data.py`` can be told."""

    layout: str  # one of LAYOUTS
    source: Path
    auto_spacing: bool = False  # whether a spacing is chosen for the scans
    crop_table: Path | None = None  # CSV table with the bounds of each scan, where ``preparation.crop`` is 'bounds'
    source_spacing: tuple[float, float, float] = option(
        (0.625, 0.625, 0.625), "spacing of the copy, which does not state it", type=spacing_mm, metavar="MM"
    )
    modality: str = option("flair", "image of each scan to use", choices=tuple(sources.BRATS_MODALITIES))
    label_map: Sequence[str] = option(
        (), "rename label values; others stay, or become 0 with other=0", action="append", metavar="3=1,4=2"
    )
    labels: Sequence[str] = option(
        (), "only for nifti: folder with label maps of the same names", action="append", metavar="DIR"
    )

    def faults(self) -> list[str]:
        faults = super().faults()
        if any(re.match(r"\s*(\d+|other)\s*=", text) for text in self.labels):
            faults.append(f"--labels {' '.join(self.labels)}: label values are renamed with --label_map")
        elif self.labels and self.layout != "nifti":
            faults.append(f"--labels {self.labels[0]}: the labels of this layout lie in SRC; leave the flag out")
        elif len(self.labels) > 1:
            faults.append(f"--labels names two folders ({', '.join(self.labels)}); give one")
        elif self.layout == "nifti" and self.template is not None and not self.labels:
            faults.append(f"--template {self.template} needs a label; give --labels the folder that holds it")
        for folder in map(Path, (self.source, *self.labels)):
            if self.destination.resolve().is_relative_to(folder.resolve()):
                inside = f"{self.destination} lies in {folder}, among the files that are read"
                faults.append(f"{inside}; name a folder elsewhere")
        return faults


FIND: dict[str, Callable[[PrepareConfig], FoundScans]] = {
    "la": lambda config: sources.find_public_la(config.source),
    "nifti": lambda config: sources.find_folder(config.source, Path(config.labels[0]) if config.labels else None),
    "nnunet": lambda config: sources.find_dataset_json(config.source, config.preparation.channel),
    "brats": lambda config: sources.find_brats(config.source, config.modality),
}
# Flags that a layout does not have: the LA copy has standard lists, and it alone does not state its spacing.
NOT_FOR = {
    "la": ("modality", *(field.name for field in dataclasses.fields(ListOptions))),
    "nifti": ("modality", "source_spacing"),
    "nnunet": ("modality", "source_spacing"),
    "brats": ("source_spacing",),
}


def parse_arguments(argv: Sequence[str] | None, description: str) -> PrepareConfig:
    """Parse the command line.

    Raises:
        InputError: if values are out of range or contradict each other.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="layout", required=True)
    for layout, text in LAYOUTS.items():
        command = commands.add_parser(layout, aliases=ALIASES.get(layout, []), help=text)
        command.set_defaults(layout=layout)  # whatever its alias was
        if layout == "nifti":
            command.add_argument("--images", dest="source", type=Path, required=True, metavar="DIR", help=text)
        else:
            command.add_argument("source", type=Path, metavar="SRC", help=text)
        optional = {"nargs": "?", "default": STANDARD_LA} if layout == "la" else {}
        command.add_argument("destination", type=Path, metavar="DST", help="dataset folder to write", **optional)
        add_flags(command.add_argument_group("the grid and the values"), Preparation)
        add_flags(command, PrepareConfig, NOT_FOR[layout])
    words = join_switches(sys.argv[1:] if argv is None else argv, PrepareConfig)
    given = vars(parser.parse_args(join_numbers(words)))
    preparation = _preparation(given)
    return PrepareConfig(preparation=preparation, **given)


def _preparation(given: dict[str, Any]) -> Preparation:
    """Remove the settings of the preparation from the parsed values, and return them."""
    names = {field.name for field in dataclasses.fields(Preparation) if "argparse" in field.metadata}
    chosen = {name: given.pop(name) for name in names & given.keys()}
    if isinstance(chosen.get("crop"), Path):
        given["crop_table"], chosen["crop"] = chosen["crop"], "bounds"
    if chosen.get("spacing") == "auto":
        given["auto_spacing"] = bool(chosen.pop("spacing"))
    if "window" in chosen:
        if "intensity" in chosen:
            raise InputError("--window and --intensity are two ways to treat intensities; use one of the two")
        chosen["intensity"] = "window"
    labels, other = parse_label_map(given.get("label_map", ()))
    return Preparation(**{**DEFAULTS.get(given["layout"], {}), **chosen}, labels=labels, other_labels=other)


def join_numbers(argv: Sequence[str]) -> list[str]:
    """Join the numbers behind --spacing and --window to one value, so that a folder may follow them."""
    words, joining = [], False
    for word in argv:
        if joining and re.fullmatch(r"[-+]?\d*\.?\d+", word):
            words[-1] += f"{',' if '=' in words[-1] else '='}{word}"
        else:
            joining = word in ("--spacing", "--source_spacing", "--window")
            words.append(word)
    return words


def parse_label_map(texts: Sequence[str]) -> tuple[dict[int, int], int | None]:
    """Read '3=1,4=2,other=0': the classes that label values become, and that of all other values (None: they stay)."""
    text = ",".join(texts)
    pairs = [re.fullmatch(r"\s*(\d+|other)\s*=\s*(\d+)\s*", part) for part in text.split(",")] if texts else []
    numbers = [int(number) for pair in pairs if pair for number in pair.groups() if number != "other"]
    if not all(pairs) or max(numbers, default=0) > 255:
        raise InputError(f"--label_map {text} must look like 3=1,4=2,other=0 (value=class, both up to 255)")
    classes = {value: int(number) for value, number in (pair.groups() for pair in pairs)}
    if len(classes) < len(pairs):
        raise InputError(f"--label_map {text} says twice what becomes of a value")
    other = classes.pop("other", None)
    return {int(value): number for value, number in classes.items()}, other


def prepare(config: PrepareConfig) -> str:
    """Convert the scans of a source into a dataset folder, and return a summary to print.

    Lists that were not asked for are the standard ones, where the scans belong to a public data set that has them.

    Raises:
        InputError: naming every file that cannot be used; nothing was written then.
    """
    found, destination = FIND[config.layout](config), config.destination
    if config.crop_table is not None:
        found = sources.with_bounds(found, config.crop_table)
    chosen = config.template is not None or config.files or config.split
    standard = None if chosen else {"la": STANDARD_LA, "brats": STANDARD_BRATS}.get(config.layout)
    if standard == STANDARD_BRATS:  # other releases have other names
        known = {name for name_list in LISTS for name in Dataset(standard).names(name_list)}
        standard = standard if known & found.scans.keys() else None
    if standard is not None:
        lists = standard_lists(found, destination, standard, config.overwrite)
    else:
        lists = chosen_lists(found, _with_template(config, found), destination, config.overwrite)
    train, remarks = lists.names.get("train.txt", []), []
    if config.auto_spacing:
        config, remark = _with_spacing(config, found, train)
        remarks.append(remark)
    prepared = convert(found, config, train[:1], lists.faults)
    lists.write(destination)
    lines = [*describe(destination, found, lists, prepared, config.preparation), *remarks]
    figure = draw_filled_masks(config, found, [name for name in (*train, *prepared) if prepared[name].filled])
    lines += [f"the filled slices beside the drawn ones: {figure}"] if figure else []
    if train and not (lists.keep and lists.missing):
        lines += next_steps(config, prepared)
    return "\n".join(lines)


def _with_spacing(config: PrepareConfig, found: FoundScans, train: Sequence[str]) -> tuple[PrepareConfig, str]:
    """Return the configuration with the spacing that was chosen, and a sentence on why."""
    from semisam_o1.commands.preparation_spacing import choose_spacing  # imports PyTorch, which takes a second

    template = train[0] if train and found.scans[train[0]].label is not None else None
    spacing, remark = choose_spacing(found, config.preparation, config.source_spacing, template)
    return dataclasses.replace(config, preparation=dataclasses.replace(config.preparation, spacing=spacing)), remark


def _with_template(config: PrepareConfig, found: FoundScans) -> PrepareConfig:
    """Return the configuration with the only scan that has a label as its template, if none was named.

    Raises:
        InputError: if several scans have a label.
    """
    if config.template is not None or config.files or not found.labeled:
        return config
    if len(found.labeled) > 1:
        raise InputError(
            "--template is missing; name the scan whose label is to be propagated to the others, of those with one: "
            f"{listed(sorted(found.labeled), 5)}"
        )
    return dataclasses.replace(config, template=next(iter(found.labeled)))

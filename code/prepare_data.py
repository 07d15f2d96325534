#!/usr/bin/env python3
"""Turn medical images into a dataset: one HDF5 file per scan, and the lists train, val and test."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from semisam_o1.core.errors import InputError, run_command
from semisam_o1.data.dataset.lists import FRACTIONS, LISTS
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.data.preparation import sources
from semisam_o1.data.preparation.convert import (
    LA_SPACING,
    STANDARD_LA,
    STANDARD_LISTS,
    prepare_scans,
    prepare_with_standard_lists,
)
from semisam_o1.data.preparation.formats import SUFFIXES
from semisam_o1.data.preparation.intensity import WINDOWS
from semisam_o1.data.preparation.settings import INTENSITIES, Preparation, parse_labels

EXAMPLES = """examples:
  prepare_data.py la ~/2018LA_Seg_Training_Set
  prepare_data.py la ~/2018LA_Seg_Training_Set data/LA_half --spacing 1.25
  prepare_data.py nifti --images scans --labels masks --template patient_07 data/mine
  prepare_data.py nifti --images ct --labels masks --template p1 --window abdomen --spacing 1.5 --crop body data/ct
  prepare_data.py nnunet Task04_Hippocampus --template hippocampus_001 data/hippocampus
  prepare_data.py brats MICCAI_BraTS_2019_Data_Training --modality flair data/BraTS2019
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    every, lists = _every_command(), _template_and_lists()

    la = commands.add_parser("la", parents=[every], help="the public copy of the 2018 Left Atrium challenge")
    la.add_argument("source", type=Path, metavar="SRC", help="folder with NAME/mri_norm2.h5")
    la.add_argument(
        "destination", type=Path, metavar="DST", nargs="?", default=STANDARD_LA,
        help="dataset folder (default: the project's data/LA)",
    )  # fmt: skip
    la.add_argument(
        "--source_spacing", default=",".join(map(str, LA_SPACING)), metavar="MM",
        help="spacing of the copy, which does not state it; used with --spacing (default: the challenge's 0.625)",
    )  # fmt: skip

    nifti = commands.add_parser(
        "nifti", aliases=["dicom"], parents=[every, lists],
        help=f"your own scans: files ({', '.join(SUFFIXES)}) or a folder with a DICOM series each",
    )  # fmt: skip
    nifti.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder with the scans")
    nifti.add_argument("destination", type=Path, metavar="DST", help="dataset folder to write")

    nnunet = commands.add_parser(
        "nnunet", aliases=["decathlon"], parents=[every, lists],
        help="a dataset of nnU-Net or of the Medical Segmentation Decathlon (dataset.json)",
    )  # fmt: skip
    nnunet.add_argument("source", type=Path, metavar="SRC", help="folder with dataset.json")
    nnunet.add_argument("destination", type=Path, metavar="DST", help="dataset folder to write")

    brats = commands.add_parser("brats", parents=[every, lists], help="a BraTS release: a folder per scan")
    brats.add_argument("source", type=Path, metavar="SRC", help="folder with the scans' folders, anywhere below")
    brats.add_argument("destination", type=Path, metavar="DST", help="dataset folder to write")
    brats.add_argument("--modality", choices=tuple(sources.BRATS_MODALITIES), default="flair",
                       help="default: %(default)s")  # fmt: skip

    arguments = parser.parse_args(join_numbers(sys.argv[1:] if argv is None else argv))
    arguments.label_folder, arguments.remap = _split_labels(arguments.labels)
    if arguments.label_folder is not None and arguments.command not in ("nifti", "dicom"):
        commands.choices[arguments.command].error(
            f"--labels {arguments.label_folder} must be a remapping such as 3=1,4=2; the labels lie in SRC"
        )
    if arguments.command != "la":
        _check_lists(arguments, commands.choices[arguments.command])
    return arguments


def join_numbers(argv: Sequence[str]) -> list[str]:
    """Join the numbers behind --spacing and --window to one value, so that a folder may follow them."""
    words, joining = [], False
    for word in argv:
        if joining and re.fullmatch(r"[-+]?\d*\.?\d+", word):
            words[-1] += f"{',' * ('=' in words[-1])}{'' if '=' in words[-1] else '='}{word}"
        else:
            joining = word in ("--spacing", "--source_spacing", "--window")
            words.append(word)
    return words


def _every_command() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    grid = parser.add_argument_group("the grid")
    grid.add_argument("--spacing", metavar="MM",
                      help="resample to this spacing: one number, or three (default: as it is)")  # fmt: skip
    grid.add_argument("--orientation", metavar="RAS", help="what x, y, z point towards, or keep (default: RAS)")
    grid.add_argument(
        "--crop", metavar="WHAT",
        help="body; six voxel numbers x0,x1,y0,y1,z0,z1 for all scans; or a CSV table NAME,x0,x1,y0,y1,z0,z1",
    )  # fmt: skip
    grid.add_argument("--margin", type=float, default=10.0, metavar="MM",
                      help="left around it (default: %(default)s mm)")  # fmt: skip
    values = parser.add_argument_group("the values")
    values.add_argument("--intensity", choices=[name for name in INTENSITIES if name != "window"],
                        help="default: zscore; brats: zscore-nonzero; la: keep")  # fmt: skip
    values.add_argument(
        "--window", metavar="LOW HIGH",
        help=f"for CT: low and high, or one of {', '.join(WINDOWS)}; scaled to −1 … 1",
    )  # fmt: skip
    values.add_argument(
        "--labels", action="append", default=[], metavar="3=1,4=2",
        help="rename label values; values not named stay, or all of them with other=0 become 0. For nifti also "
        "the folder with labels of the same names",
    )  # fmt: skip
    values.add_argument("--label_interpolation", choices=("onehot", "nearest"), default="onehot",
                        help="of labels where the grid changes (default: %(default)s)")  # fmt: skip
    values.add_argument("--channel", type=int, metavar="N", help="of images with several, counted from 0")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: by the size of the scans)")
    parser.add_argument("--overwrite", action="store_true", help="replace files and lists that differ")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _template_and_lists() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("the lists")
    group.add_argument("--template", metavar="NAME", help="the scan whose label is spread: first in train.txt")
    group.add_argument(
        "--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="parts of all scans, drawn by chance (default: {} {} {})".format(*FRACTIONS),
    )  # fmt: skip
    for name in ("train", "val", "test"):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"names of {name}.txt, instead of --split")
    group.add_argument("--seed", type=int, default=1337, help="of the drawn split (default: %(default)s)")
    return parser


def _check_lists(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    given = {f"{name}.txt": getattr(arguments, name) for name in ("train", "val", "test")}
    arguments.lists = {name: path for name, path in given.items() if path is not None}
    if arguments.lists and arguments.split is not None:
        parser.error("--split draws the lists that --train, --val and --test give; use one of the two")
    if arguments.lists and arguments.train is None:
        parser.error("--val and --test need --train, the list of the scans to train on")
    if arguments.seed < 0:
        parser.error(f"--seed must be 0 or more, it is {arguments.seed}")


def _split_labels(given: Sequence[str]) -> tuple[Path | None, str | None]:
    """Return the folder and the remapping among the values of --labels."""
    folders = [text for text in given if not re.match(r"\s*(\d+|other)\s*=", text)]
    remaps = [text for text in given if text not in folders]
    if len(folders) > 1:
        raise InputError(f"--labels names two folders ({', '.join(folders)}); give one, and remappings such as 3=1,4=2")
    return Path(folders[0]) if folders else None, ",".join(remaps) or None


def settings_of(arguments: argparse.Namespace) -> Preparation:
    """Return the settings that the command line asks for.

    Raises:
        InputError: if a value makes no sense.
    """
    labels, other = parse_labels(arguments.remap) if arguments.remap else ({}, None)
    window = _window(arguments.window)
    if window and arguments.intensity:
        raise InputError("--window and --intensity are two ways to treat intensities; use one of the two")
    usual = {"la": "keep", "brats": "zscore-nonzero"}.get(arguments.command, "zscore")
    return Preparation(
        orientation=(arguments.orientation or ("keep" if arguments.command == "la" else "RAS")).replace("KEEP", "keep"),
        spacing=_per_axis(arguments.spacing, "--spacing"),
        crop=_crop(arguments.crop),
        margin=arguments.margin,
        intensity="window" if window else arguments.intensity or usual,
        window=window,
        labels=labels,
        other_labels=other,
        label_interpolation=arguments.label_interpolation,
        channel=arguments.channel,
    )


def _per_axis(text: str | None, flag: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise InputError(f"{flag} {text} must be one number or three (x y z), in mm")
    return values * (3 // len(values))


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None or text in WINDOWS:
        return WINDOWS.get(text or "")
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InputError(f"--window {text} must be low and high, or one of {', '.join(WINDOWS)}") from None
    return low, high


def _crop(text: str | None) -> str | tuple[int, ...] | None:
    if text is None or text == "body":
        return text
    parts = text.replace(",", " ").split()
    if len(parts) == 6 and all(re.fullmatch(r"\d+", part) for part in parts):
        bounds = tuple(map(int, parts))
        if any(bounds[i] > bounds[i + 1] for i in (0, 2, 4)):
            raise InputError(f"--crop {text}: of each axis the first voxel comes first (x0,x1,y0,y1,z0,z1)")
        return bounds
    return "bounds"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    settings = settings_of(arguments)
    if arguments.command == "la":
        found = sources.find_public_la(arguments.source)
    elif arguments.command == "brats":
        found = sources.find_brats(arguments.source, arguments.modality)
    elif arguments.command in ("nnunet", "decathlon"):
        found = sources.find_dataset_json(arguments.source, arguments.channel)
    else:
        found = sources.find_folder(arguments.images, arguments.label_folder)
    if settings.crop == "bounds":
        found = sources.with_bounds(found, Path(arguments.crop))
    common = {"overwrite": arguments.overwrite, "workers": arguments.workers}
    standard = {"la": STANDARD_LA, "brats": STANDARD_LISTS / "BraTS2019"}.get(arguments.command)
    if standard is not None and (arguments.command == "la" or _takes_standard_lists(arguments, found, standard)):
        spacing = None
        if arguments.command == "la" and settings.spacing is not None:
            spacing = _per_axis(arguments.source_spacing, "--source_spacing")
        print(
            prepare_with_standard_lists(
                found, arguments.destination, settings, standard, source_spacing=spacing, **common
            )
        )
    else:
        print(
            prepare_scans(
                found, arguments.template, arguments.destination, settings,
                fractions=arguments.split or FRACTIONS, list_files=arguments.lists, seed=arguments.seed, **common,
            )
        )  # fmt: skip


def _takes_standard_lists(arguments: argparse.Namespace, found: sources.Found, standard: Path) -> bool:
    """Return whether nothing else was asked for, and the lists name scans that are there (other releases do not)."""
    if arguments.template is not None or arguments.lists or arguments.split:
        return False
    return any(name in found.scans for listed in LISTS for name in Dataset(standard).names(listed))


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Frozen dataclasses whose fields are command-line flags, and the parsers made from them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Any, TypeVar

from semisam_o1.core.errors import InputError

Config = TypeVar("Config")


def option(default: Any, help: str, **keywords: Any) -> Any:
    """Declare a dataclass field that is also a command-line flag; ``keywords`` go to argparse."""
    return field(default=default, metadata={"help": help, **keywords})


def on_off(text: str) -> bool:
    """Read a switch: on, off, and what else people write for them."""
    switches = {
        "on": True,
        "1": True,
        "true": True,
        "yes": True,
        "off": False,
        "0": False,
        "false": False,
        "no": False,
    }
    if text.lower() not in switches:
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return switches[text.lower()]


SWITCH: dict[str, Any] = {"type": on_off, "nargs": "?", "const": True, "metavar": "on|off"}
THREE: dict[str, Any] = {"type": int, "nargs": 3, "metavar": ("W", "H", "D")}


def parse(config: type[Config], argv: Sequence[str] | None, description: str) -> Config:
    """Read a command line into a configuration.

    A configuration with a flag ``recipe`` has a table ``recipes``: name → other defaults of its flags.

    Raises:
        InputError: if values contradict each other; argparse itself exits with 2 on what it cannot read.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for item in dataclasses.fields(config):
        keywords = dict(item.metadata)
        if item.default is None or keywords.get("required"):
            keywords.setdefault("default", argparse.SUPPRESS)  # the help text says what stands in for it
        parser.add_argument(f"--{item.name}", **{"default": item.default, **keywords})
    recipe = getattr(parser.parse_known_args(argv)[0], "recipe", None)
    if recipe is not None:
        parser.set_defaults(**config.recipes[recipe])
    return config(**vars(parser.parse_args(argv)))


def patch_faults(patch: Sequence[int]) -> list[str]:
    """Return what is wrong with a patch size (W, H, D)."""
    sides = " ".join(map(str, patch))
    if len(patch) != 3 or not all(side > 0 and side % 16 == 0 for side in patch):
        return [f"--patch_size must be positive and divisible by 16 on every axis, it is {sides}"]
    if max(patch) == 16:
        return [f"--patch_size {sides} leaves one voxel at the bottom of the network; one axis must have 32 or more"]
    return []


def assign(config: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass, for its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def fail(faults: list[str]) -> None:
    """Raise an InputError if there is any fault."""
    if faults:
        raise InputError("; ".join(faults))

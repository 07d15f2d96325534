"""Frozen dataclasses whose fields are command-line flags: declared once, with their ranges and their help."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from semisam_o1 import IS_CHECKOUT, PROJECT_ROOT
from semisam_o1.core.errors import OFF, ON, raise_faults

Config = TypeVar("Config")


SCRIPTS = {
    "prepare": "prepare_data.py",
    "suggest": "suggest_template.py",
    "label": "add_label.py",
    "train": "train_SemiSAM_O1.py",
    "test": "test_baseline.py",
    "predict": "predict.py",
    "report": "report.py",
    "export": "export.py",
    "demo": "make_demo.py",
}


def shell_command(name: str) -> str:
    """Return what a user types before the flags of a command, in the working directory."""
    if not IS_CHECKOUT:
        return f"semisam-o1 {name}"
    script = PROJECT_ROOT / "code" / SCRIPTS[name]
    here = Path.cwd()
    return f"python {shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))}"


@dataclass(frozen=True)
class Range:
    """The finite numbers that a flag takes."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False  # whether ``low`` itself is left out

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        return above and value <= self.high and abs(value) < math.inf

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"lie between {self.low:g} and {self.high:g}"
        return "be positive" if self.open else f"be at least {self.low:g}"


AT_LEAST_1, AT_LEAST_0, POSITIVE, SHARE = Range(1), Range(0), Range(0, open=True), Range(0, 1)
ZOOM = Range(0.5, 2.0)


def option(
    default: Any, help: str, within: Range | None = None, resume: str = "same", positional: bool = False, **others: Any
) -> Any:
    """Declare a dataclass field that is also a command-line flag.

    Args:
        within: the numbers it takes, one or several; checked by ``check_ranges``.
        resume: 'same' if a run only continues with the value that it was started with, 'more' if that may be raised,
            'any' if it may change.
        positional: whether it is an argument without a flag.
        others: for argparse, beside what the field's annotation says; with an ``action``, instead of that.
    """
    metadata = {"argparse": {"help": help, **others}, "within": within, "resume": resume, "positional": positional}
    return dataclasses.field(default=default, metadata=metadata)


def on_off(text: str) -> bool:
    """Read a switch."""
    for value, words in ((True, ON), (False, OFF)):
        if text.lower() in words:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")


def join_switches(argv: Sequence[str], config: type[Any]) -> list[str]:
    """Join every switch of a configuration with its on or off, so that what follows a bare one is an argument."""
    fields = [item for item in dataclasses.fields(config) if "argparse" in item.metadata]
    switches = {f"--{item.name}" for item in fields if item.type.removesuffix(" | None") == "bool"}
    words: list[str] = []
    for i, word in enumerate(argv):
        if i and argv[i - 1] in switches and word.lower() in (*ON, *OFF):
            words[-1] = f"{argv[i - 1]}={word}"
        else:
            words.append(f"{word}=on" if word in switches else word)
    return words


# What argparse needs to know of a field, by its annotation.
OF_TYPE: dict[str, dict[str, Any]] = {
    "int": {"type": int},
    "float": {"type": float},
    "Path": {"type": Path},
    "bool": {"type": on_off, "nargs": "?", "const": True, "metavar": "on|off"},
    "tuple[float, ...]": {"type": float, "nargs": "+"},
    "tuple[int, int, int]": {"type": int, "nargs": 3, "metavar": ("W", "H", "D")},
}


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What the configurations of all commands share; faults are raised as InputError when one is made."""

    debug: bool = option(False, "show tracebacks", resume="any")

    def __post_init__(self) -> None:
        check_ranges(self, self.faults())

    def faults(self) -> list[str]:
        """Return the contradictions between flags, a sentence each; their ranges are checked beside."""
        return []


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(CommandConfig):
    """The same of commands that compute on a device."""

    device: str = option("auto", "auto: cuda where it works, else cpu", resume="any", choices=("auto", "cuda", "cpu"))


def with_recipes(recipes: Mapping[str, Mapping[str, Any]]) -> Callable[[type[Config]], type[Config]]:
    """Let the field ``recipe`` of a dataclass choose other defaults (name → field → default) for fields not given.

    The attribute ``given`` of an instance holds the names of those that were.
    """

    def decorate(config: type[Config]) -> type[Config]:
        plain = config.__init__

        @functools.wraps(plain)
        def init(self: Config, **given: Any) -> None:
            assign(self, given=frozenset(given))
            plain(self, **recipes.get(given.get("recipe", config.recipe), {}) | given)

        config.__init__ = init
        return config

    return decorate


def add_flags(parser: argparse.ArgumentParser, config: type[Any], without: Collection[str] = ()) -> None:
    """Add a flag for every field of a configuration, its own before inherited ones; what is not given stays out.

    Args:
        without: names of the fields that are no flags of this parser.
    """
    order = [name for owner in config.__mro__ for name in inspect.get_annotations(owner)]
    declared_flags = [i for i in dataclasses.fields(config) if "argparse" in i.metadata and i.name not in without]
    for item in sorted(declared_flags, key=lambda item: order.index(item.name)):
        declared = item.metadata["argparse"]
        inferred = {} if "action" in declared else OF_TYPE.get(item.type.removesuffix(" | None"), {})
        keywords = {"default": argparse.SUPPRESS, **inferred, **declared}
        if not keywords.get("required") and item.default not in (None, ()):
            default = " ".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
            default = {True: "on", False: "off"}[default] if isinstance(default, bool) else default
            keywords["help"] += f" (default: {default})"
        keywords["help"] = keywords["help"].replace("%", "%%")
        positional = {"default": item.default} if item.metadata["positional"] else {}
        parser.add_argument(item.name if positional else f"--{item.name}", **keywords | positional)


def parse(config: type[Config], argv: Sequence[str] | None, description: str) -> Config:
    """Read a command line into a configuration; argparse exits with 2 on what it cannot read."""
    parser = argparse.ArgumentParser(description=description)
    add_flags(parser, config)
    words = join_switches(sys.argv[1:] if argv is None else argv, config)
    return config(**vars(parser.parse_args(words)))


def check_ranges(config: Any, faults: Sequence[str] = ()) -> None:
    """Raise InputError that lists all numbers out of range and the ``faults`` found otherwise, if there are any."""
    found = []
    for item in dataclasses.fields(config):
        within, value = item.metadata.get("within"), getattr(config, item.name)
        numbers = value if isinstance(value, (tuple, list)) else [value] if value is not None else []
        if within is not None:
            found += [f"--{item.name} must {within}, it is {number}" for number in numbers if number not in within]
            found += [f"--{item.name} needs a number"] if value is not None and not numbers else []
    raise_faults([*found, *faults], "arguments cannot be used")


def patch_faults(patch: Sequence[int], divisors: Sequence[int]) -> list[str]:
    """Return what is wrong with a patch size (W, H, D).

    Args:
        divisors: by what the network divides each axis; a patch of that size would leave one voxel at its bottom.
    """
    voxels = [side // divisor for side, divisor in zip(patch, divisors, strict=True)]
    if all(side > 0 and side % divisor == 0 for side, divisor in zip(patch, divisors, strict=True)) and max(voxels) > 1:
        return []
    by = f"{divisors[0]} on every axis" if len(set(divisors)) == 1 else " ".join(map(str, divisors))
    sides, double = " ".join(map(str, patch)), 2 * divisors[0]
    return [f"--patch_size must be positive, divisible by {by} and {double} or more on one, it is {sides}"]


def assign(config: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass, for its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(config, name, value)

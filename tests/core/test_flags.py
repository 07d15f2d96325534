"""Configurations whose fields are flags: ranges, switches, recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from semisam_o1.core.errors import InputError
from semisam_o1.core.flags import (
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    CommandConfig,
    Range,
    check_ranges,
    option,
    parse,
    with_recipes,
)


@with_recipes({"plain": {}, "fast": {"rounds": 9, "careful": False}})
@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: str = option("plain", "other defaults", choices=("plain", "fast"))
    rounds: int = option(3, "rounds", within=AT_LEAST_1)
    rate: float = option(0.5, "rate", within=POSITIVE)
    share: float | None = option(None, "share", within=SHARE)
    careful: bool = option(True, "100 % care")
    root: Path | None = option(None, "folder")
    size: tuple[int, int, int] = option((1, 2, 3), "size")

    def __post_init__(self) -> None:
        check_ranges(self)


def test_values_have_the_type_of_the_annotation() -> None:
    flags = ["--rounds", "4", "--rate", "2", "--careful", "off", "--root", "b", "--size", "4", "5", "6"]
    config = parse(Config, flags, "")
    assert (config.rounds, config.rate, config.careful, config.root) == (4, 2.0, False, Path("b"))
    assert tuple(config.size) == (4, 5, 6)


@dataclass(frozen=True, kw_only=True)
class WithFolder(CommandConfig):
    folder: Path = option(None, "folder", positional=True)
    overwrite: bool = option(False, "replace")


@pytest.mark.parametrize(
    ("flags", "debug", "overwrite"),
    [
        (["--debug", "on", "a"], True, False),
        (["--debug", "a"], True, False),
        (["a", "--debug"], True, False),
        (["--overwrite", "--debug", "off", "a"], False, True),
        (["a", "--overwrite", "1"], False, True),
        (["--overwrite=off", "a"], False, False),
    ],
)
def test_a_switch_stands_alone_or_before_on_and_off(flags: list[str], debug: bool, overwrite: bool) -> None:
    assert parse(WithFolder, flags, "") == WithFolder(folder=Path("a"), debug=debug, overwrite=overwrite)


def test_a_recipe_applies_from_python_as_on_the_command_line() -> None:
    for config in (Config(recipe="fast", rounds=2), parse(Config, ["--recipe", "fast", "--rounds", "2"], "")):
        assert (config.rounds, config.careful) == (2, False)
    assert Config(recipe="fast").rounds == 9
    assert dataclasses.replace(Config(recipe="fast"), careful=True).careful
    assert Config().rounds == 3


def test_every_number_out_of_range_is_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        Config(rounds=0, rate=float("inf"), share=1.5)
    for part in ("--rounds must be at least 1, it is 0", "--rate must be positive", "--share must lie between 0 and 1"):
        assert part in str(error.value)
    with pytest.raises(InputError, match=r"^--rounds must be at least 1, it is -2$"):
        Config(rounds=-2)


@pytest.mark.parametrize(("value", "inside"), [(2, True), (255, True), (1, False), (256, False), (float("nan"), False)])
def test_a_range_contains_its_ends(value: float, inside: bool) -> None:
    assert (value in Range(2, 255)) is inside


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, ["--help"], "")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("rounds (default: 3)", "100 % care (default: on)", "size (default: 1 2 3)"):
        assert part in shown


@dataclass(frozen=True)
class Settings:
    source: str = option(None, "required", positional=True)
    target: str | None = option(None, "optional", positional=True, nargs="?")
    overwrite: bool = option(False, "alone")
    quiet: bool = option(False, "takes on or off")


def test_positional_arguments_and_switches_without_a_value() -> None:
    assert parse(Settings, ["a"], "") == Settings("a")
    assert parse(Settings, ["--overwrite", "a", "b", "--quiet", "on"], "") == Settings("a", "b", True, True)

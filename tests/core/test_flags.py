"""Configurations as command lines."""

from __future__ import annotations

from dataclasses import dataclass

from semisam_o1.core.flags import option, parse


@dataclass(frozen=True)
class Settings:
    source: str = option(None, "required", positional=True)
    target: str | None = option(None, "optional", positional=True, nargs="?")
    overwrite: bool = option(False, "takes no value", action="store_true")
    quiet: bool = option(False, "takes on or off")


def test_positional_arguments_and_switches_without_a_value() -> None:
    assert parse(Settings, ["a"], "") == Settings("a")
    assert parse(Settings, ["--overwrite", "a", "b", "--quiet", "on"], "") == Settings("a", "b", True, True)

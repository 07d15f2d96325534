"""The house keeps its floors: who may import whom is listed here once, and nothing grows beyond what one can read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "code" / "semisam_o1"
MAX_MODULE, MAX_FUNCTION, MAX_PARAMETERS = 250, 50, 7  # lines, lines, without self
# From the ground up, and on a floor from left to right: a room imports from rooms before it, never from later ones.
ROOMS = (
    "core",
    *("data.dataset", "data.preparation", "data.preflight", "data.sampling"),
    *("networks", "features", "propagation", "methods", "refinement", "evaluation"),
    *("drawing", "runs", "training", "plan"),
    *("pipeline", "commands", "report", "demo"),
)


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "data" else 1])


def imports(path: Path) -> set[str]:
    """Return the modules of the package that a module of it imports, without the package's own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name, so that the room can be seen"
            if node.module.startswith("semisam_o1."):
                found.add(node.module.removeprefix("semisam_o1."))
    return found


def test_every_module_lies_in_a_room() -> None:
    modules = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    rooms = {str(path): room(".".join(path.parts[:-1])) for path in modules if str(path) != "command_line.py"}
    outside = [path for path, name in rooms.items() if name not in ROOMS]
    assert not outside


def test_rooms_import_from_below_and_from_the_left() -> None:
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE and path.parent != PACKAGE / "data"
        for module in imports(path)
        if ROOMS.index(room(module)) > ROOMS.index(room(".".join(path.relative_to(PACKAGE).with_suffix("").parts)))
    ]
    assert not upwards


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("path", sorted(PACKAGE.parent.rglob("*.py")), ids=lambda path: path.stem)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE
    assert "fmt: skip" not in text
    for function in functions(path):
        parameters = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        assert function.end_lineno - function.lineno < MAX_FUNCTION, function.name
        assert len([name for name in parameters if name not in ("self", "cls")]) <= MAX_PARAMETERS, function.name

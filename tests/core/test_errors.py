"""Exit codes and messages of a command."""

from __future__ import annotations

import pytest
import torch

from semisam_o1.core.errors import Hints, InputError, Interrupted, RunError, listed, run_command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("train.txt is missing"), 2, "error: train.txt is missing"),
        (RunError("the disk is full"), 1, "error: the disk is full"),
        (ValueError("odd"), 1, "error: ValueError: odd (--debug shows where)"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "a smaller --patch_size"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), 1, "a smaller --patch_size"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"), 1, "a smaller --patch_size"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 1, "a smaller --patch_size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"), 1, "a smaller --patch_size"),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), 1, "a smaller --patch_size"),
        (Interrupted("stopped at 12; run it again to go on"), 130, "stopped at 12"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_command_raises_becomes_a_message_and_a_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture
) -> None:
    def main(argv):
        raise error

    assert run_command(main, [], Hints(memory="a smaller --patch_size needs less")) == code
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


def test_success_is_0_and_the_arguments_arrive() -> None:
    seen = []
    assert run_command(seen.append, ["--a", "1"]) == 0
    assert seen == [["--a", "1"]]


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (RunError, 1), (KeyError, 1)])
def test_debug_shows_the_traceback(kind: type, code: int, capsys: pytest.CaptureFixture) -> None:
    def main(argv):
        raise kind("reason")

    assert run_command(main, ["--debug"]) == code
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "in main" in error


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], False),
        (["--debug"], True),
        (["--debug", "ROOT"], True),
        (["--debug", "on", "ROOT"], True),
        (["ROOT", "--debug", "off"], False),
        (["--debug", "No", "ROOT"], False),
        (["--debug=false"], False),
        (["--debug=1"], True),
    ],
)
def test_debug_is_a_switch(words: list[str], shown: bool, capsys: pytest.CaptureFixture) -> None:
    def main(_: object) -> None:
        raise ValueError("odd")

    assert run_command(main, words) == 1
    assert ("Traceback" in capsys.readouterr().err) is shown


def test_debug_is_read_from_the_real_command_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def main(argv):
        raise InputError("reason")

    monkeypatch.setattr("sys.argv", ["command", "--debug"])
    assert run_command(main) == 2
    assert "Traceback" in capsys.readouterr().err


def test_argparse_keeps_its_own_exit() -> None:
    def main(argv):
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        run_command(main, [])


def test_a_long_list_is_cut() -> None:
    assert listed(iter(["a", "b"])) == "a, b"
    assert listed("abcde", 3) == "a, b, c and 2 more"

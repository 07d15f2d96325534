"""Errors that end a command with one clear sentence, and the exit codes they stand for."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence

# What the system says when there is no room: on the disk, in the quota, in the largest file that is allowed.
FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """Arguments or input that cannot be used: names the file or flag, what is wrong and what to do."""


class RunError(Exception):
    """A failure while running whose cause is known and explained."""


class Interrupted(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Return names as a message shows them: the first ones, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def run_command(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a command's ``main`` and turn what it raises into a message and an exit code.

    Args:
        main: takes the command line without the program's name (None: ``sys.argv``).
        argv: the command line; ``--debug`` in it shows tracebacks.

    Returns:
        0 done, 1 a failure while running, 2 unusable arguments or input, 130 interrupted.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        main(argv)
    except InputError as error:
        return _explain(error, EXIT_BAD_INPUT, debug)
    except Interrupted as error:
        print(error, file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RunError as error:
        return _explain(error, EXIT_FAILURE, debug)
    except Exception as error:
        return _explain(_name_cause(error), EXIT_FAILURE, debug)
    return 0


def _explain(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return code


def _name_cause(error: Exception) -> Exception:
    kind = type(error).__name__
    # torch.OutOfMemoryError, NumPy's MemoryError, the RuntimeErrors of PyTorch's CPU allocators, and a reading
    # process that the system ended.
    texts = ("not enough memory", "allocate memory", "is killed by signal: Killed")
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError) or any(text in str(error) for text in texts):
        return RunError(
            "out of memory; a smaller --patch_size or --batch_size, --cache ram or --cache none, "
            f"or --precision bf16 needs less ({_first_line(error)})"
        )
    if kind.startswith("Dist") or (isinstance(error, RuntimeError) and "third_party/gloo" in str(error)):
        return RunError(
            "another process of this run has ended or does not answer; its own message says why. What was saved before "
            f"is whole, and training goes on with --resume ({_first_line(error)})"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" at {error.filename}" if error.filename else ""
        return RunError(
            f"the disk is full or a quota is used up{where} ({error.strerror}). What was saved before is whole; free "
            "some space, then go on with --resume"
        )
    return RunError(f"{kind}: {error} (--debug shows where)")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

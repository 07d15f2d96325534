"""Exceptions that end a command with one clear sentence, their exit codes, and how faults are listed."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Error numbers of a full disk, an exhausted quota and a file beyond the size limit.
DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
# Messages of NumPy, of PyTorch's CPU allocators, of a DataLoader worker that the system ended, of the CUDA driver, of
# its libraries, and of cuDNN where no algorithm's workspace fits.
OUT_OF_MEMORY = (
    *("not enough memory", "allocate memory", "is killed by signal: Killed", "CUDA error: out of memory"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "unable to find an engine"),
)

# What a switch takes for on and off.
ON, OFF = ("on", "1", "true", "yes"), ("off", "0", "false", "no")

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """Arguments or input that cannot be used; the message names the file or flag, the fault and the remedy."""


class DatasetError(InputError):
    """A dataset that cannot be used; the command adds its flags that say how a dataset is read."""


class RunError(Exception):
    """A failure while running whose cause is known and explained."""


class Interrupted(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


@dataclass(frozen=True)
class Hints:
    """Advice that names flags; it belongs to the command that has them. Empty where a command has none."""

    memory: str = ""  # settings that need less memory
    resume: str = ""  # command that continues after a failure
    dataset: str = ""  # flags that say how a dataset is read


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Join names for a message: the first ``limit``, and the number of others."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def raise_faults(faults: Sequence[str], what: str, kind: type[Exception] = InputError) -> None:
    """Raise one error of a kind that lists all faults, if there are any.

    Args:
        faults: one sentence per fault.
        what: noun for several faults in the heading, such as 'faults in the dataset'.
    """
    if faults:
        raise kind(faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} {what}:", *faults]))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, the name of its class where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def run_command(
    main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None, hints: Hints | None = None
) -> int:
    """Run a command's ``main`` and turn what it raises into a message and an exit code.

    Args:
        main: takes the command line without the program's name (None: ``sys.argv``).
        argv: the command line; ``--debug`` in it shows tracebacks.
        hints: added to messages where they apply.

    Returns:
        0 done, 1 a failure while running, 2 unusable arguments or input, 130 interrupted.
    """
    hints = hints or Hints()
    try:
        main(argv)
    except InputError as error:
        return _explain(error, EXIT_BAD_INPUT, argv, hints.dataset if isinstance(error, DatasetError) else "")
    except (Interrupted, KeyboardInterrupt) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        return _explain(_known_failure(error, hints), EXIT_FAILURE, argv)
    return 0


def is_disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out, on the host or on a GPU."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or any(text in str(error) for text in OUT_OF_MEMORY)


def write_failure(path: object, error: OSError) -> str:
    """Return the message for a file that cannot be written."""
    advice = "the disk is full or a quota is used up, free some space: " if is_disk_full(error) else ""
    return f"{path} cannot be written: {advice}{error.strerror or error}. What was saved before is complete"


def _wants_traceback(argv: Sequence[str]) -> bool:
    """Return whether a command line, which may not be readable as a whole, says ``--debug``."""
    for position, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == "--debug":
            following = "".join(argv[position + 1 : position + 2])
            return (value or following).lower() not in OFF
    return False


def _explain(message: object, code: int, argv: Sequence[str] | None, hint: str = "") -> int:
    if _wants_traceback(sys.argv[1:] if argv is None else argv):
        traceback.print_exc()
    print(f"error: {message}" + (f"\n{hint}" if hint else ""), file=sys.stderr)
    return code


def _known_failure(error: Exception, hints: Hints) -> str:
    """Return the message of a failure while running, with the command's advice where the cause is known."""
    kind = type(error).__name__
    if isinstance(error, RunError):
        return _advised(str(error), hints.resume if is_disk_full(error.__cause__) else "")
    if is_out_of_memory(error):
        return _advised(f"out of memory ({first_line(error)})", hints.memory)
    if kind.startswith("Dist") or (isinstance(error, RuntimeError) and "third_party/gloo" in str(error)):
        lost = "another process of this run has ended or does not answer; its own message says why"
        return _advised(f"{lost} ({first_line(error)}). What was saved before is complete", hints.resume)
    if is_disk_full(error):
        return _advised(write_failure(error.filename or "a file", error), hints.resume)
    return f"{kind}: {error} (--debug shows where)"


def _advised(message: str, hint: str) -> str:
    return f"{message}; {hint}" if hint else message

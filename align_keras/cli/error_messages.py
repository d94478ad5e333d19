"""Messages of the command line for exceptions, each in one line."""

import errno
import json
import os
import pathlib
import re
import tempfile
import traceback

from align_keras.utils.addresses import redacted
from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url

# Arguments in a message of this package: `argument` in backquotes, and the arguments
# with which the message begins.
_QUOTED = re.compile(r"`(\w+)`")
_FIRST = re.compile(r"(?:\w+(?:, | and | or ))*\w+(?=:| (?:must|may|can|has|have)\b)")


def with_options(text: str, options: dict[str, str]) -> str:
    """Replaces the arguments in a message of this package by command-line options.

    Args:
        text: str, message that begins with arguments or has them in backquotes.
        options: dict from an argument to its option.

    >>> with_options("k must be >= 1, received 0; raise `k`.", {"k": "-k"})
    '-k must be >= 1, received 0; raise -k.'
    """

    def option_of(match: re.Match[str]) -> str:
        return options.get(match[1], match[0])

    first = _FIRST.match(text)
    if first:
        names = re.sub(r"(\w+)", option_of, first[0])
        text = names + text[first.end() :]
    return _QUOTED.sub(option_of, text)


# TensorFlow's exceptions in a process whose collectives lost another process.
_LOST_PEER_ERRORS = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "InternalError",
    "DeadlineExceededError",
)
# Numbers of the system's errors that may occur while a file is written.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def describe_error(error: BaseException) -> str | None:
    """Returns a line about an error that may happen, or None if the error is a bug."""
    message = _describe(error)
    return None if message is None else redacted(message)


def _describe(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if isinstance(error, OSError) or _is_tensorflow_error(error, "OpError"):
        number = _system_error(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"no space left on the disk{_file_of(error)}; free some, then run again"
            )
        if number == errno.EFBIG:
            return (
                f"File too large for this disk or process{_file_of(error)}; write to "
                "another disk, or raise `ulimit -f`"
            )
    if _is_distributed() and _is_tensorflow_error(error, *_LOST_PEER_ERRORS):
        return (
            "another process of this run ended or can't be reached; start all of them "
            f"again, and the run goes on from its last checkpoint ({text[:160]})"
        )
    if _is_tensorflow_error(error, "DataLossError"):
        return (
            "a file of the data set or of a checkpoint is damaged; copy it again, or "
            f"create it again ({text[:160]})"
        )
    # TensorFlow raises this class for a full disk, too, which is described above.
    is_exhausted = _is_tensorflow_error(error, "ResourceExhaustedError")
    if isinstance(error, MemoryError) or is_exhausted:
        return f"out of memory; make the batch or the model smaller ({text[:160]})"
    if isinstance(error, PermissionError) and not is_url(error.filename or ""):
        return f"no permission{_file_of(error)}; change it, or choose another folder"
    if isinstance(error, OSError):
        return f"{error.strerror or text}{_file_of(error)}"
    return None


def describe_bug(error: BaseException) -> str:
    """Returns a line about an exception that is a bug.

    The traceback is written to a file, which the line names. If no file can be written,
    the traceback follows the line.
    """
    whole = redacted("".join(traceback.format_exception(error)))
    # A note of one line names the task that failed.
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    text = " ".join(" ".join([str(error), *notes]).split())[:300]
    message = redacted(f"unexpected {type(error).__name__}: {text}")
    package = pathlib.Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if pathlib.Path(frame.filename).is_relative_to(package):
            module = pathlib.Path(frame.filename).relative_to(package.parent)
            message += f" ({module}, line {frame.lineno})"
            break
    try:
        number, log = tempfile.mkstemp(".log", "align-keras-")
        with open(number, "wb") as file:
            file.write(whole.encode(errors="backslashreplace"))
    except OSError:
        return f"{message}; please report it:\n{whole}"
    return (
        f"{message}; an input is damaged, or this is a bug: please report it with {log}"
    )


def _system_error(error: BaseException) -> int | None:
    """Returns the number of the system's error behind an exception, or None.

    TensorFlow and h5py do not keep the number. They put the system's description of it
    into their messages, which does not depend on the language of the user.
    """
    number = getattr(error, "errno", None)
    if number is not None:
        return number
    text = str(error)
    return next((code for code in _DISK_ERRORS if os.strerror(code) in text), None)


def _is_distributed() -> bool:
    """Returns True if this process is one of several of a run, by TensorFlow's rule."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        return sum(len(addresses) for addresses in cluster.values()) > 1
    except (ValueError, TypeError, AttributeError):
        return False


def _file_of(error: BaseException) -> str:
    """Returns the file of a system's error as the end of a message, "" without one."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | bytes | os.PathLike):
        return f": {os.fsdecode(name)}"
    return ""


def _is_tensorflow_error(error: BaseException, *names: str) -> bool:
    """Returns True if an exception is of one of TensorFlow's classes.

    The classes are compared by name, since the import of TensorFlow takes seconds.
    """
    return any(
        base.__name__ in names and base.__module__.startswith("tensorflow")
        for base in type(error).__mro__
    )

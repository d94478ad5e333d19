"""Error messages of the command line, each in one line."""

import errno
import json
import os
import pathlib
import re
import tempfile
import traceback

from align_keras.utils.addresses import drop_queries, is_url
from align_keras.utils.errors import TENSORFLOW_MODULES, InputError, missing_module

# A Python argument in the message of an `InputError` has one of three forms. It is in
# backquotes, it follows "Received: ", or the message begins with it, as in "k must be"
# or "image and text may have".
_QUOTED = re.compile(r"`(\w+)`")
_RECEIVED = re.compile(r"(?<=Received: )(\w+)(?==)")
_FIRST = re.compile(
    r"(?:\w+(?:, | and | or ))*\w+(?=:| (?:must|may|can|has|have|is|needs)\b)"
)


def use_option_names(text: str, options: dict[str, str]) -> str:
    """Replaces Python arguments in a message with command-line options.

    Args:
        text: message with arguments at its beginning, in backquotes or after
            "Received: ".
        options: dict from an argument to its option.

    >>> use_option_names("k must be >= 1. Received: k=0. Raise `k`.", {"k": "-k"})
    '-k must be >= 1. Received: -k=0. Raise -k.'
    """

    def option_of(match: re.Match[str]) -> str:
        return options.get(match[1], match[0])

    first = _FIRST.match(text)
    if first:
        names = re.sub(r"(\w+)", option_of, first[0])
        text = names + text[first.end() :]
    return _QUOTED.sub(option_of, _RECEIVED.sub(option_of, text))


# Classes of TensorFlow errors that a process raises when another process of the same
# run ends during a collective operation.
_LOST_PEER_ERRORS = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "InternalError",
    "DeadlineExceededError",
)
# Error numbers of the operating system for a full disk, an exceeded quota and a file
# above the size limit.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Characters. Longer texts of other libraries are truncated, so that a message stays
# readable.
_MAX_DETAILS = 160


def describe_error(error: BaseException) -> str | None:
    """Returns the message for an expected error in one line.

    Expected errors are wrong inputs, packages that are not installed, and problems of
    the machine, such as a full disk.
    All other exceptions are bugs, for which the result is None.
    """
    text = " ".join(str(error).split())
    details = f" ({text[:_MAX_DETAILS]})" if text else ""
    if isinstance(error, InputError):
        return text
    if isinstance(error, ModuleNotFoundError) and error.name in TENSORFLOW_MODULES:
        return str(missing_module(error.name, "The command"))
    if isinstance(error, OSError) or _is_tensorflow_error(error, "OpError"):
        number = _system_error_number(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"No space left on the disk{_file_suffix(error)}. Free some space and "
                "run the command again."
            )
        if number == errno.EFBIG:
            return (
                f"File too large for this disk or process{_file_suffix(error)}. Write "
                "to another disk, or raise the limit with `ulimit -f`."
            )
    if _is_distributed() and _is_tensorflow_error(error, *_LOST_PEER_ERRORS):
        return (
            f"Another process of this run has ended or cannot be reached{details}. "
            "Start all processes again. The run continues from its last checkpoint."
        )
    if _is_tensorflow_error(error, "DataLossError"):
        return (
            f"A file of the data set or of a checkpoint is damaged{details}. Copy the "
            "file again, or create it again."
        )
    # TensorFlow also raises this class for a full disk, but that case has already
    # returned.
    is_exhausted = _is_tensorflow_error(error, "ResourceExhaustedError")
    if isinstance(error, MemoryError) or is_exhausted:
        return f"Out of memory{details}. Use a smaller batch or a smaller model."
    if isinstance(error, PermissionError) and not is_url(error.filename or ""):
        return (
            f"Permission denied{_file_suffix(error)}. Change the permissions, or "
            "choose another folder."
        )
    if isinstance(error, OSError):
        return f"{error.strerror or text}{_file_suffix(error)}"
    return None


def describe_bug(error: BaseException) -> str:
    """Returns the message for an exception that is a bug, in one line.

    The traceback is written to a file, and the message names the file. If no file can
    be written, the traceback follows the message.
    """
    full_traceback = drop_queries("".join(traceback.format_exception(error)))
    # A one-line note contains the name of the failed task.
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    text = " ".join(" ".join([str(error), *notes]).split())[:300]
    message = f"Unexpected {type(error).__name__}: {text}"
    package = pathlib.Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if pathlib.Path(frame.filename).is_relative_to(package):
            module = pathlib.Path(frame.filename).relative_to(package.parent)
            message += f" ({module}, line {frame.lineno})"
            break
    try:
        number, log = tempfile.mkstemp(".log", "align-keras-")
        with open(number, "wb") as file:
            file.write(full_traceback.encode(errors="backslashreplace"))
    except OSError:
        return (
            f"{message}. This may be a bug. Report it with the traceback:\n"
            f"{full_traceback}"
        )
    return (
        f"{message}. An input may be damaged, or this is a bug. Report it with the "
        f"traceback in {log}"
    )


def _system_error_number(error: BaseException) -> int | None:
    """Returns the `errno` that caused an exception, or None.

    The exceptions of TensorFlow and h5py have no `errno`. Their messages contain the
    description of the error by the operating system, which is English in every locale.
    """
    number = getattr(error, "errno", None)
    if number is not None:
        return number
    text = str(error)
    return next((code for code in _DISK_ERRORS if os.strerror(code) in text), None)


def _is_distributed() -> bool:
    """Returns True if `TF_CONFIG` describes a run of several processes."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        return sum(len(addresses) for addresses in cluster.values()) > 1
    except (ValueError, TypeError, AttributeError):
        return False


def _file_suffix(error: BaseException) -> str:
    """Returns ": " and the file of an `OSError`, or "" if the error has no file."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | bytes | os.PathLike):
        return f": {os.fsdecode(name)}"
    return ""


def _is_tensorflow_error(error: BaseException, *names: str) -> bool:
    """Returns True if the exception has a TensorFlow class with one of these names.

    The classes are compared by name, because the import of TensorFlow takes seconds.
    """
    return any(
        base.__name__ in names and base.__module__.startswith("tensorflow")
        for base in type(error).__mro__
    )

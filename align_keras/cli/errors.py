"""What an error that reaches the command line means, in one line."""

import errno
import os
import pathlib
import re
import tempfile
import traceback

from align_keras.utils.addresses import redacted
from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url

# What a library's message names: `argument` anywhere, or the arguments it begins with.
_QUOTED = re.compile(r"`(\w+)`")
_FIRST = re.compile(r"(?:\w+(?:, | and | or ))*\w+(?=:| (?:must|may|can|has|have)\b)")


def with_options(text: str, options: dict[str, str]) -> str:
    """Names options in the place of a library's arguments, with which `text` begins or
    which it has in backquotes.

    >>> with_options("k must be >= 1, received 0; raise `k`.", {"k": "-k"})
    '-k must be >= 1, received 0; raise -k.'
    """

    def named(match):
        return options.get(match[1], match[0])

    first = _FIRST.match(text)
    if first:
        names = re.sub(r"(\w+)", named, first[0])
        text = names + text[first.end() :]
    return _QUOTED.sub(named, text)


# What TensorFlow's collectives say of a process that ended, and of a lost network.
_LOST = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "InternalError",
    "DeadlineExceededError",
)


def describe_error(error: BaseException) -> str | None:
    """Says in one line what went wrong, or None where nobody expects it."""
    message = _described(error)
    return None if message is None else redacted(message)


def _described(error):
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    # TensorFlow has one class for a full disk and for exhausted memory, and
    # h5py's errors have no errno.
    exhausted = _is_tensorflow(error, "ResourceExhaustedError")
    if isinstance(error, OSError) or _is_tensorflow(error, "OpError"):
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            return f"no space left on the disk{_of(error)}; free some, then run again"
        if number == errno.EFBIG or "File too large" in text:
            return (
                f"File too large for this disk or process{_of(error)}; write to "
                "another disk, or raise `ulimit -f`"
            )
    if "ollective" in text and any(_is_tensorflow(error, name) for name in _LOST):
        return (
            "another process of this run ended or can't be reached; start all of them "
            f"again, and the run goes on from its last checkpoint ({text[:160]})"
        )
    if _is_tensorflow(error, "DataLossError"):
        return (
            "a file of the data set or of a checkpoint is damaged; copy it again, or "
            f"make it anew ({text[:160]})"
        )
    if isinstance(error, MemoryError) or exhausted:
        return f"out of memory; make the batch or the model smaller ({text[:160]})"
    if isinstance(error, PermissionError) and not is_url(error.filename or ""):
        return f"no permission{_of(error)}; change it, or choose another folder"
    if isinstance(error, OSError):
        return f"{error.strerror or text}{_of(error)}"
    return None


def describe_bug(error: BaseException) -> str:
    """Says in one line what nobody expected, and keeps its traceback in a file, or adds
    it where no file can be written.
    """
    whole = redacted("".join(traceback.format_exception(error)))
    # Of a task that went wrong, which one it was.
    notes = getattr(error, "__notes__", ())
    told = [str(error), *(note for note in notes if "\n" not in note)]
    text = " ".join(" ".join(told).split())[:300]
    message = redacted(f"unexpected {type(error).__name__}: {text}")
    package = pathlib.Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if pathlib.Path(frame.filename).is_relative_to(package):
            place = pathlib.Path(frame.filename).relative_to(package.parent)
            message += f" ({place}, line {frame.lineno})"
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


def _of(error):
    name = getattr(error, "filename", None)
    is_path = isinstance(name, str | bytes | os.PathLike)
    return f": {os.fsdecode(name)}" if is_path else ""


def _is_tensorflow(error, name):
    """Compares by name, since importing TensorFlow to ask takes seconds."""
    return any(
        base.__name__ == name and base.__module__.startswith("tensorflow")
        for base in type(error).__mro__
    )

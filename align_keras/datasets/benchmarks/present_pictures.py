"""Which pictures of a benchmark lie on the disk."""

import os

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Names of missing pictures that are told.
_NAMED = 5


def present_pictures(paths, source, allow_missing):
    """Returns the rows of the pictures that are there.

    Args:
        paths: list of str.
        source: str, what names the pictures, for the message.
        allow_missing: bool, leave missing pictures out and say so on stderr.

    Returns:
        list of int.

    Raises:
        InputError: if one is missing, or with `allow_missing` all.

    Example:

    >>> present_pictures([__file__], "the list", allow_missing=False)
    [0]
    """
    rows = [row for row, path in enumerate(paths) if os.path.isfile(path)]
    if len(rows) == len(paths):
        return rows
    there = set(rows)
    missing = [path for row, path in enumerate(paths) if row not in there]
    named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    found = f"{len(missing)} of {len(paths)} pictures of {source} are missing: {named}"
    if not rows:
        raise InputError(f"{found}; check the folder of the pictures.")
    if not allow_missing:
        raise InputError(
            f"{found}; fetch them, or leave them out with --allow_missing."
        )
    say(f"{found}; left out")
    return rows

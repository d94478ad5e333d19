"""Randomly damaged files, and a check that reading them fails cleanly."""

import random
import resource
import time

import pytest

from align_keras.utils.errors import InputError

# Limit of a read in CPU seconds, and kilobytes per megabyte.
SECONDS, MEGABYTES = 5, 1000
# Content that parsers often fail on: large numbers, deep nesting, wrong types, paths to
# other folders and NUL bytes.
_TRAPS = [b"0", b"-1", b"1e999", b"NaN", b"9" * 30, b"null", b"true", b"[]", b"{}"]
_TRAPS += [b"[" * 5000, b'{"a":' * 5000, b"../x", b"\0", b"\xff\xfe", b"'", b'"', b"*a"]


def counts(few, many):
    """Returns a mark that sets `count`, the number of damaged copies, for each tier."""
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.release)]
    )


def damage(content, source):
    """Damages a file in one to four places.

    Args:
        content: Bytes of the file.
        source: `random.Random`, the source of random numbers.

    Returns:
        The damaged bytes.
    """
    content = bytearray(content)
    for _ in range(source.choice([1, 1, 2, 4])):
        start = source.randrange(len(content) + 1)
        length = source.choice([1, 1, 4, 20, len(content)])
        kind = source.randrange(6)
        if kind == 0:
            content[start : start + 1] = bytes([source.randrange(256)])
        elif kind == 1:
            del content[start : start + length]
        elif kind == 2:
            content[start:start] = content[start : start + length] * source.choice(
                [1, 9]
            )
        elif kind == 3:
            content[start:start] = source.choice(_TRAPS)
        elif kind == 4:
            content[start : start + length] = bytes(min(length, len(content) - start))
        else:
            _replace_value(content, source)
    return bytes(content)


def _replace_value(content, source):
    """Replaces a number or a word by one of `_TRAPS`. The syntax mostly stays valid."""
    starts = [
        position for position, byte in enumerate(content[:20_000]) if byte in b" :,[\n"
    ]
    if starts:
        start = source.choice(starts) + 1
        end = start
        while end < len(content) and content[end] not in b" ,]}\n":
            end += 1
        content[start:end] = source.choice(_TRAPS)


def check_folder(folder, names, read, count, seed=0):
    """Reads a folder `count` times, each time with one of its files damaged.

    Each read must succeed or raise `InputError` with a short message, within `SECONDS`.

    Args:
        folder: `pathlib.Path`. Its files are restored at the end.
        names: Names of the files to damage.
        read: Callable without arguments.
        count: int.
        seed: int.

    Returns:
        Tuple of two ints: the number of reads that succeeded, and the number of those
        that raised `InputError`.
    """
    # The undamaged folder must be readable. This read also imports the modules that
    # `read` needs, so that their time and memory aren't counted.
    read()
    source, outcomes = random.Random(seed), [0, 0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path = folder / names[number % len(names)]
        whole = path.read_bytes()
        path.write_bytes(damage(whole, source))
        start = time.process_time()
        try:
            read()
            outcomes[0] += 1
        except InputError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 2000, line[:9000]
            outcomes[1] += 1
        except Exception as error:
            message = f"{path.name}, mutation {number}: {type(error).__name__}: {error}"
            raise AssertionError(message) from error
        assert time.process_time() - start < SECONDS, f"{path.name}, mutation {number}"
        path.write_bytes(whole)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < 1000 * MEGABYTES
    return tuple(outcomes)

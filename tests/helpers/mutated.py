"""Files as chance, a bad disk or an attacker leaves them, and how reading must end."""

import random
import resource
import time

from align_keras.utils.errors import InputError

SECONDS, MEGABYTES = 5, 1000
# What parsers stumble on: numbers, nesting, other types, names elsewhere, NUL.
_TRAPS = [b"0", b"-1", b"1e999", b"NaN", b"9" * 30, b"null", b"true", b"[]", b"{}"]
_TRAPS += [b"[" * 5000, b'{"a":' * 5000, b"../x", b"\0", b"\xff\xfe", b"'", b'"', b"*a"]


def mutated(content, own):
    """Returns the bytes after one to four damages, which `own`, a Random, draws."""
    content = bytearray(content)
    for _ in range(own.choice([1, 1, 2, 4])):
        place = own.randrange(len(content) + 1)
        length = own.choice([1, 1, 4, 20, len(content)])
        kind = own.randrange(6)
        if kind == 0:
            content[place : place + 1] = bytes([own.randrange(256)])
        elif kind == 1:
            del content[place : place + length]
        elif kind == 2:
            content[place:place] = content[place : place + length] * own.choice([1, 9])
        elif kind == 3:
            content[place:place] = own.choice(_TRAPS)
        elif kind == 4:
            content[place : place + length] = bytes(min(length, len(content) - place))
        else:
            _replace_value(content, own)
    return bytes(content)


def _replace_value(content, own):
    """Puts a trap in place of a number or a word, which keeps a text's syntax."""
    starts = [place for place, byte in enumerate(content[:20_000]) if byte in b" :,[\n"]
    if starts:
        start = own.choice(starts) + 1
        end = start
        while end < len(content) and content[end] not in b" ,]}\n":
            end += 1
        content[start:end] = own.choice(_TRAPS)


def check_folder(folder, names, read, count, seed=0):
    """Reads a folder `count` times, each time with one of its files damaged.

    Args:
        folder: `pathlib.Path`, whose files are whole again at the end.
        names: names of the files to damage.
        read: callable without arguments.
        count: int.
        seed: int.

    Returns:
        Tuple of two ints: how often it was read, and refused by `InputError`.
    """
    read()  # What is whole is read, and what it imports isn't measured.
    own, outcomes = random.Random(seed), [0, 0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path = folder / names[number % len(names)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, own))
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
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1000 * MEGABYTES
    return tuple(outcomes)

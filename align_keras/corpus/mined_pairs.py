"""File of mined hard negatives, which `align-keras mine` writes for training."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Sequence

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, open_regular


@dataclasses.dataclass(frozen=True)
class MinedPair:
    """Pair of an image and a caption with the ids of its most similar wrong pairs.

    Attributes:
        id: str, id of the image.
        caption: str.
        images: tuple of str, ids of the wrong images that are most similar to the
            caption, in descending order of the similarity.
        captions: tuple of str, ids of the images with the wrong captions that are most
            similar to the image, in descending order of the similarity.

    Example:

    >>> MinedPair("1.png", "a cat", ("7.png",), ("7.png", "9.png")).images
    ('7.png',)
    """

    id: str
    caption: str
    images: tuple[str, ...]
    captions: tuple[str, ...]


def write_mined_pairs(path: str | os.PathLike, pairs: Iterable[MinedPair]) -> None:
    """Writes mined pairs as JSON lines."""
    with atomic_write(path) as file:
        for pair in pairs:
            line = json.dumps(dataclasses.asdict(pair), ensure_ascii=False)
            file.write(f"{line}\n")


def read_mined_pairs(path: str | os.PathLike) -> list[MinedPair]:
    """Reads the file of `align-keras mine`.

    Raises:
        InputError: if the file can't be read, or has other content.
    """
    try:
        with open_regular(path) as file:
            return [_parse(line) for line in file]
    except OSError as error:
        raise InputError(
            f"hard_negatives must be a readable file. Received: {path} "
            f"({error.strerror}). Check the path."
        ) from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InputError(
            "hard_negatives must be a file of `align-keras mine`. Received: "
            f"{path} with other content. Run `align-keras mine` again."
        ) from None


def negatives_by_image(pairs: Iterable[MinedPair]) -> dict[str, tuple[str, ...]]:
    """Returns the ids of the mined negatives of each image.

    The negatives of all captions of an image, by images and by captions, are merged.
    The most similar ones are first.

    Example:

    >>> pairs = [MinedPair("1.png", "a cat", ("7.png", "3.png"), ("7.png", "9.png"))]
    >>> negatives_by_image(pairs)
    {'1.png': ('7.png', '3.png', '9.png')}
    """
    rankings: dict[str, list[Sequence[str]]] = {}
    for pair in pairs:
        rankings.setdefault(pair.id, []).extend([pair.images, pair.captions])
    return {id: _merged(lists) for id, lists in rankings.items()}


def _merged(rankings: list[Sequence[str]]) -> tuple[str, ...]:
    """Returns the different items of several rankings, ordered by their best ranks."""
    by_rank = itertools.chain.from_iterable(itertools.zip_longest(*rankings))
    return tuple(dict.fromkeys(id for id in by_rank if id is not None))


def _parse(line: bytes) -> MinedPair:
    """Returns the pair of a line of JSON."""
    values = json.loads(line)
    lists = [tuple(values[name]) for name in ("images", "captions")]
    if not all(isinstance(id, str) for id in (values["id"], *lists[0], *lists[1])):
        raise TypeError
    return MinedPair(values["id"], str(values["caption"]), *lists)

"""Encoded images in tar files, which are read when they are used."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class ImageSpan(NamedTuple):
    """Position of an encoded image in a file.

    Attributes:
        path: path of the file.
        offset: position of the first byte.
        size: number of bytes.
    """

    path: str
    offset: int
    size: int


class ShardImages:
    """Encoded images as bytes, which are read from uncompressed tar files.

    Args:
        spans: sequence of `ImageSpan`.
    """

    def __init__(self, spans: Sequence[ImageSpan]) -> None:
        self._spans = list(spans)

    @property
    def spans(self) -> list[ImageSpan]:
        """Positions of the images, which are not read."""
        return list(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, row: int) -> bytes:
        span = self._spans[row]
        with open(span.path, "rb") as file:
            file.seek(span.offset)
            return file.read(span.size)

    def __iter__(self) -> Iterator[bytes]:
        return (self[row] for row in range(len(self)))

    def select_rows(self, rows: Sequence[int]) -> "ShardImages":
        """Returns the images in `rows` without reading them."""
        return ShardImages([self._spans[row] for row in rows])

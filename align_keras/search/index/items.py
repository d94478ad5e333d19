"""Images of an index that was made from embeddings. They have an id and no source file.

The database stores such an image as `item:NAME:ID`. NAME is the file name of the copy
of the image in the folder of the index, or empty if the index has no copy. Paths of
source files are absolute, so no path looks like `item:NAME:ID`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

# Entry of the table `roots` to which all images without a source file belong.
ITEMS_ROOT = b"items:"
_PREFIX = b"item:"
# Name and fingerprint of the model in an index that was made without a model.
NO_MODEL = "none"
# Number of files that `count_left_out` lists for each reason.
_EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Identity of the model that computed the embeddings of an index.

    Attributes:
        name: str, name or absolute path that `align_keras.load_model` accepts.
        fingerprint: str, digest of the weights and the preprocessing.
        dimension: int, width of the embeddings.
        runtime: str, `runtime` argument of `align_keras.load_model`.
        truncated_to: int or None, `dimensions` argument of `align_keras.load_model`.

    Example:

    >>> ModelIdentity("align_small_en", "786def33e90f574d", 384).reference()
    {'name': 'align_small_en', 'fingerprint': '786def33e90f574d'}
    """

    name: str
    fingerprint: str
    dimension: int
    runtime: str = "auto"
    truncated_to: int | None = None

    def reference(self) -> dict[str, Any]:
        """Returns name, fingerprint and options in the form of `Embedder.reference`."""
        reference: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
        }
        if self.runtime != "auto":
            reference["runtime"] = self.runtime
        if self.truncated_to is not None:
            reference["dimensions"] = self.truncated_to
        return reference


class LeftOutFile(NamedTuple):
    """File of a source without an image in the index.

    Attributes:
        path: str, path or address.
        reason: str, reason, which many files can share.
        detail: str, the problem of this file in detail, or "".
    """

    path: str
    reason: str
    detail: str


def count_left_out(files: Iterable[LeftOutFile]) -> list[dict[str, Any]]:
    """Returns the number of files for each reason, as JSON data.

    >>> [counted] = count_left_out([LeftOutFile("a.jpg", "empty", "0 bytes")])
    >>> counted["reason"], counted["count"], counted["examples"]
    ('empty', 1, [{'path': 'a.jpg', 'detail': '0 bytes'}])
    """
    by_reason: dict[str, list[LeftOutFile]] = {}
    for file in files:
        by_reason.setdefault(file.reason, []).append(file)
    return [
        {
            "reason": reason,
            "count": len(by_reason[reason]),
            "examples": [
                {"path": file.path, "detail": file.detail}
                for file in by_reason[reason][:_EXAMPLES]
            ],
        }
        for reason in sorted(by_reason)
    ]


def item_file(id: str, image_name: str = "") -> bytes:
    """Returns the stored name of an image that has an id and no source file.

    >>> item_file("star", "000001.png")
    b'item:000001.png:star'
    """
    return b"%b%b:%b" % (
        _PREFIX,
        image_name.encode(),
        id.encode("utf-8", "surrogatepass"),
    )


def is_item(file: bytes) -> bool:
    """Returns True for a name that `item_file` made, and False for a path."""
    return file.startswith(_PREFIX)


def split_item(file: bytes) -> tuple[str, str]:
    """Returns the id of an image and the file name of its copy in the index, or "".

    >>> split_item(b"item::a:b")
    ('a:b', '')
    """
    image_name, _, id = file.removeprefix(_PREFIX).partition(b":")
    return id.decode("utf-8", "replace"), image_name.decode("utf-8", "replace")

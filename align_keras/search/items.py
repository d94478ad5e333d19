"""Images that an index knows by an id alone, because it was made from embeddings.

Such an image has no file to look at again. `item:NAME:ID` is its name in the database,
where NAME is the copy of the image in the folder of the index, or empty. The path of a
file is absolute, so that no file has such a name.
"""

import dataclasses

# Source of these images in the table of sources.
ITEMS_ROOT = b"items:"
_PREFIX = b"item:"
# Name and fingerprint of the model of an index whose maker named none.
NO_MODEL = "none"


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Model that an index was made with.

    Attributes:
        name: name or absolute path by which `align_keras.load_model` opens it.
        fingerprint: digest of weights and preprocessing.
        dimension: width of the embeddings.
        runtime: runtime with which `align_keras.load_model` opens it.
    """

    name: str
    fingerprint: str
    dimension: int
    runtime: str = "auto"

    def reference(self) -> dict[str, str]:
        """Returns what opens and verifies the model, as `Embedder.reference`."""
        reference = {"name": self.name, "fingerprint": self.fingerprint}
        if self.runtime != "auto":
            reference["runtime"] = self.runtime
        return reference


def item_file(id: str, image_name: str = "") -> bytes:
    """Returns the name in the database of an image with an id.

    >>> item_file("star", "000001.png")
    b'item:000001.png:star'
    """
    return b"%b%b:%b" % (
        _PREFIX,
        image_name.encode(),
        id.encode("utf-8", "surrogatepass"),
    )


def is_item(file: bytes) -> bool:
    """Returns True for the name of an image with an id, not for a path."""
    return file.startswith(_PREFIX)


def split_item(file: bytes) -> tuple[str, str]:
    """Returns the id of an image, and the name of its copy in the index, or "".

    >>> split_item(b"item::a:b")
    ('a:b', '')
    """
    image_name, _, id = file.removeprefix(_PREFIX).partition(b":")
    return id.decode("utf-8", "replace"), image_name.decode("utf-8", "replace")

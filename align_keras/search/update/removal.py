"""Removal of images and sources from an index."""

import dataclasses
import os
from collections.abc import Container, Iterable

from align_keras.search.index.image_store import ImageStore
from align_keras.search.readers.corpus_images import is_record, shard_of
from align_keras.search.update.source_scan import path_columns
from align_keras.utils.addresses import is_url, without_query
from align_keras.utils.errors import InputError


@dataclasses.dataclass
class _Removal:
    """Path to remove, and the images of the index that it matches.

    Attributes:
        file: path of an image, a folder or a table.
        root: id of the source with this path, or None.
        images: path → id of the images.
    """

    file: bytes
    root: int | None
    images: dict[bytes, int]


def remove(store: ImageStore, paths: Iterable[str | os.PathLike]) -> int:
    """Removes images from an index.

    If a source is removed whose images also belong to another source, these images are
    moved to that source.

    Args:
        store: store of the index, open for writing.
        paths: paths of images, or of folders or tables that contain them.

    Returns:
        Number of removed images.

    Raises:
        InputError: if a path matches nothing in the index.
    """
    roots, stored = store.roots(), store.stored_files()
    tables = store.tables.tables_of_images()
    unreadable, dropped_unreadable = store.unreadable(), set[bytes]()
    dropped, dropped_roots = set[int](), set[bytes]()
    removals: list[_Removal] = []
    # Id of an image → its path and the path of its new source.
    moved: dict[int, tuple[bytes, bytes]] = {}
    for path in paths:
        file = _path_to_remove(path, roots, stored)
        prefix = os.path.join(file, b"")
        root = roots.get(file)
        images = {
            image_file: image.id
            for image_file, image in stored.items()
            if image_file == file or image_file.startswith(prefix) or image.root == root
        }
        # An empty path would be the current folder.
        if not path or (not images and root is None):
            raise InputError(
                "`remove` must be images, folders or tables of the index. Received: "
                f"{os.fsdecode(path)!r}. Check the path."
            )
        removals.append(_Removal(file, root, images))
        if root is not None:
            dropped_roots.add(file)
    remaining_roots = {
        file: id for file, id in roots.items() if file not in dropped_roots
    }
    for removal in removals:
        prefix = os.path.join(removal.file, b"")
        for image_file, id in removal.images.items():
            holder = None
            if removal.root is not None:
                root = stored[image_file].root
                holder = _remaining_source(
                    image_file, root, remaining_roots, tables.get(id, set())
                )
            if holder is None:
                dropped.add(id)
            else:
                moved[id] = image_file, holder
        dropped_unreadable.update(
            name
            for name, record in unreadable.items()
            if name.startswith(prefix) or record.root == removal.root
        )
    with store.database.transaction():
        store.remove_images(dropped)
        for id, (file, root_file) in moved.items():
            if id not in dropped:
                root = remaining_roots[root_file]
                store.update_image(id, {"root": root, **path_columns(file, root_file)})
        store.remove_unreadable(dropped_unreadable)
        for file in dropped_roots:
            store.remove_root(file)
    store.compact()
    return len(dropped)


def _path_to_remove(
    path: str | os.PathLike, roots: Container[bytes], stored: Container[bytes]
) -> bytes:
    """Converts the path of an image or a source to the form that the index stores."""
    name = os.fsencode(without_query(os.fsdecode(path)))
    if name in stored or name in roots:
        return name
    if is_url(path):
        return name.rstrip(b"/")
    # An image may be a symbolic link. The index stores the path of the link.
    plain = os.path.abspath(os.path.expanduser(name))
    return plain if plain in stored else os.path.realpath(plain)


def _remaining_source(
    file: bytes, root: int, sources: dict[bytes, int], tables: set[int]
) -> bytes | None:
    """Returns the same source, the nearest folder, a table of the image, or None."""
    parent = next((source for source, id in sources.items() if id == root), None)
    if parent is not None:
        return parent
    path = shard_of(file) if is_record(file) else file
    folders = [
        source for source in sources if path.startswith(os.path.join(source, b""))
    ]
    if folders:
        return max(folders, key=len)
    return next((source for source, id in sources.items() if id in tables), None)

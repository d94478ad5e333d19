"""Writer of an index from precomputed embeddings."""

import collections
import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.search.index.columns import as_text
from align_keras.search.index.folder_files import STORED_IMAGES, item_file
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.image_store import ModelIdentity
from align_keras.search.index.schema import ITEMS_ROOT
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_folder, refuse_url

_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
}


def write_embedding_index(
    folder: str | os.PathLike,
    embeddings: np.ndarray,
    ids: Sequence[str],
    captions: Sequence[str | Sequence[str]] | None,
    images: Sequence[bytes] | None,
    model: ModelIdentity,
) -> None:
    """Writes an index to a temporary folder and moves it to `folder` once complete.

    Args:
        folder: path of a new folder, or of an existing index to replace.
        embeddings: float32 (n, d), the result of `check_embeddings`.
        ids: sequence of n different str.
        captions: sequence of n entries, each a str or a sequence of str, or None.
        images: sequence of n bytes, the content of image files, or None.
        model: identity of the model that computed the embeddings.

    Raises:
        InputError: if the lengths differ, ids are equal, an image has an unsupported
            format, or `folder` contains something other than an index.
    """
    refuse_url(folder, "`folder`")
    folder = pathlib.Path(os.path.abspath(folder))
    names = [str(id) for id in ids]
    if len(set(names)) != len(names):
        repeated, count = collections.Counter(names).most_common(1)[0]
        raise InputError(
            f"`ids` must be unique. Received: {repeated!r:.80} {count:,} times. Rename "
            "one of them."
        )
    arguments = {"ids": ids, "captions": captions, "images": images}
    for name, column in arguments.items():
        if column is not None and len(column) != len(embeddings):
            raise InputError(
                f"`{name}` must have one entry per row of `embeddings`. Received: "
                f"{len(column)} entries for {len(embeddings)} rows. Pass one entry per "
                "image."
            )
    suffixes = [image_suffix(content, row) for row, content in enumerate(images or ())]
    with contextlib.ExitStack() as stack:
        if FolderStore.exists(folder):
            # Without the lock, another process could add images to the old folder.
            stack.enter_context(FolderStore.locked(folder))
        temporary = stack.enter_context(atomic_folder(folder))
        FolderStore.initialize(temporary, model)
        with FolderStore.writer(temporary) as store:
            with store.database.transaction():
                root = store.add_root(ITEMS_ROOT)
                rows = store.append(embeddings)
                for row, name in zip(rows, names, strict=True):
                    content = None if images is None else bytes(images[row])
                    image_name = ""
                    if content is not None:
                        image_name = f"{row:06d}{suffixes[row]}"
                        _write_image(temporary, image_name, content)
                    texts = None if captions is None else captions[row]
                    columns = _columns(name, texts, content)
                    file = item_file(name, image_name)
                    store.add_image({"root": root, "file": file, "row": row, **columns})
            store.compact()


def check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings as float32 (n, d).

    Raises:
        InputError: if the array is not a matrix with rows, or contains NaN or infinity.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    is_matrix = embeddings.ndim == 2 and embeddings.size > 0
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.square(embeddings).sum(axis=-1))
    num_invalid = np.count_nonzero(~np.isfinite(norms))
    if not is_matrix or num_invalid:
        raise InputError(
            "`embeddings` must be a matrix (rows, dimension) of finite numbers with at "
            f"least one row. Received: shape {embeddings.shape}, {num_invalid:,} rows "
            "with NaN or infinity. Pass one row per image."
        )
    return embeddings


def image_suffix(content: bytes, row: int) -> str:
    """Returns the file suffix for the content of an image file.

    Args:
        content: bytes of the file.
        row: row of the image, for the error message.

    Raises:
        InputError: if the format is not supported.
    """
    for magic, suffix in _SUFFIXES.items():
        if content.startswith(magic):
            return suffix
    raise InputError(
        "`images` must be PNG, JPEG, GIF, BMP or WebP files. Received: bytes that "
        f"begin with {content[:4]!r} in row {row}. Encode them in one of these formats."
    )


def _write_image(folder: pathlib.Path, name: str, content: bytes) -> None:
    path = folder / STORED_IMAGES / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def _columns(
    id: str, captions: str | Sequence[str] | None, content: bytes | None
) -> dict[str, Any]:
    """Returns the columns of an image. Its id is used as both `path` and `name`."""
    from align_keras.search.readers.image_files import content_hash

    text = as_text(id)
    columns: dict[str, Any] = {"path": text, "name": text, "mtime_ns": 0}
    if captions is not None:
        texts = [captions] if isinstance(captions, str) else captions
        cleaned = [as_text(str(caption)) for caption in texts]
        columns["captions"] = json.dumps(cleaned, ensure_ascii=False)
    columns["content"] = b""
    if content is not None:
        columns["content"] = content_hash(content)
        columns["size"] = len(content)
        columns["width"], columns["height"] = _image_size(content)
    return columns


def _image_size(content: bytes) -> tuple[int | None, int | None]:
    """Reads width and height from an image's header. Both are None if it is damaged."""
    from align_keras.utils.errors import ImageError
    from align_keras.utils.pillow_images import open_image

    try:
        return open_image(content).size
    except ImageError:
        return None, None

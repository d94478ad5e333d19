"""Encode functions with a cache, computed in this process or on a cluster."""

import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.embedders import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.protocols.embedding_cache import (
    EmbeddingCache,
    Image,
    Item,
    by_content,
    content_digest,
    encoded,
    joined_rows,
)
from align_keras.protocols.protocol import first_names
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.tasks import LOCAL, check_same, is_cluster, run_tasks

# Number of chunks that a cluster embeds between two writes.
_BLOCKS = 64


def default_cache() -> pathlib.Path:
    """Returns the default folder of embeddings."""
    cache_root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache_root, "align_keras", "embeddings")


def results_folder(path: str | None) -> pathlib.Path:
    """Returns the folder of training results, by default in the user's cache."""
    return pathlib.Path(path or default_cache().parent / "fine_tuned")


class CachedEncoders:
    """Encode functions of a model with a cache of embeddings.

    Args:
        open_model: function that returns the `Embedder`. It is called on the first use.
        directory: folder of the caches.
        engine: engine that computes the embeddings, as in `Request`.
    """

    def __init__(
        self,
        open_model: Callable[[], Embedder],
        directory: str | os.PathLike,
        engine: str = LOCAL,
    ) -> None:
        self._open_model = open_model
        self._directory = pathlib.Path(directory)
        self._engine = engine

    @functools.cached_property
    def model(self) -> Embedder:
        return self._open_model()

    def trainable_model(self) -> Embedder:
        """Returns the model in host memory, so that a copy of it can be trained."""
        import tensorflow as tf

        with tf.device("/cpu:0"):
            return self.model_with_weights()

    def model_with_weights(self) -> Embedder:
        """Returns the model unless it is an export."""
        if self.model.align is None:
            raise InputError(
                "model must be a run folder or a Hugging Face folder for this "
                "protocol, which needs the weights. Received: an export."
            )
        return self.model

    @functools.cached_property
    def _images(self) -> EmbeddingCache:
        return self._cache("image", 256)

    @functools.cached_property
    def _texts(self) -> EmbeddingCache:
        return self._cache("text", 1024)

    def _cache(self, kind: str, chunk: int) -> EmbeddingCache:
        """Returns the cache of `"image"` or `"text"` embeddings."""
        encode, fingerprint = _encoder(self.model, kind)
        folder = self._directory / f"{kind}-{fingerprint}"
        if not is_cluster(self._engine):
            return EmbeddingCache(folder, encode, chunk)
        encode_all = encode_on(self._engine, self.model, folder, kind, chunk)
        return EmbeddingCache(folder, encode, chunk * _BLOCKS, encode_all)

    def readable_images(
        self, images: Collection[Image]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds the images that can be decoded.

        Args:
            images: paths, encoded images or uint8 arrays.

        Returns:
            float32 array (readable images, d), and an int64 array of their rows.

        Raises:
            InputError: if no image can be decoded.
        """
        with progress_bar("embedding images", "images", len(images)) as bar:
            items = map(by_content, images)
            embeddings, rows = self._images.readable(items, bar.advance)
        if len(rows) < len(images):
            readable = set(rows.tolist())
            names = [
                image if isinstance(image, str) else f"image {row}"
                for row, image in enumerate(images)
                if row not in readable
            ]
            say(
                f"{len(names)} of {len(images)} images can't be decoded and are left "
                f"out: {first_names(names)}"
            )
        if not len(rows):
            raise InputError(
                f"At least one image must be decodable. Received: {len(images)} images "
                "that can't be decoded."
            )
        return embeddings, rows

    def images(self, images: Iterable[Image], count: int) -> np.ndarray:
        """Embeds images, all of which must be decodable.

        Args:
            images: paths, encoded images or uint8 arrays. Only a chunk of them is in
                memory.
            count: number of images.

        Returns:
            Memory-mapped float32 array (count, d).

        Raises:
            InputError: if an image can't be decoded.
        """
        with progress_bar("embedding images", "images", count) as bar:
            embeddings, rows = self._images.readable(
                map(by_content, images), bar.advance
            )
        if len(rows) < count:
            raise InputError(
                f"The model must be able to decode all {count} images. Received: "
                f"{count - len(rows)} images that it can't decode."
            )
        return embeddings

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds captions: float32 (n, d)."""
        with progress_bar("embedding texts", "texts", len(texts)) as bar:
            return self._texts(texts, bar.advance)


# === Clusters ===


def encode_on(
    engine: str,
    model: Embedder,
    directory: pathlib.Path,
    kind: str,
    block: int,
) -> Callable[[Sequence[Item]], np.ndarray]:
    """Returns a function like `encoded` that embeds items on a cluster.

    A task has `block` items. Items and embeddings are temporarily stored in
    `directory`, which must be on a shared disk.
    """
    task_arguments = {
        "model": checked_path(model, "engine"),
        "runtime": model.runtime_option,
        "dimensions": model.truncated_to,
        "fingerprint": _encoder(model, kind)[1],
        "kind": kind,
    }
    folder = directory.absolute() / "tasks"

    def encode(items: Sequence[Item]) -> np.ndarray:
        folder.mkdir(exist_ok=True)
        tasks = []
        for at in range(0, len(items), block):
            part = items[at : at + block]
            digest = hashlib.blake2b(digest_size=12)
            for item in part:
                digest.update(content_digest(item))
            block_path = folder / digest.hexdigest()
            arrays: dict[str, Any] = dict(_as_arrays(part))
            with atomic_path(f"{block_path}.npz") as temporary:
                with open(temporary, "wb") as file:
                    np.savez(file, **arrays)
            tasks.append({**task_arguments, "block_path": str(block_path)})
        run_tasks(embed_block, tasks, folder, engine=engine)
        blocks = [np.load(f"{task['block_path']}.npy") for task in tasks]
        shutil.rmtree(folder)
        return joined_rows(blocks)

    return encode


def embed_block(task: dict) -> None:
    """Embeds the items in a file, as a task of `run_tasks`."""
    model = worker_model(task["model"], task["runtime"], task["dimensions"])
    encode, fingerprint = _encoder(model, task["kind"])
    check_same(task["model"], fingerprint, task["fingerprint"])
    with np.load(f"{task['block_path']}.npz") as stored:
        items = [_as_item(name, stored[name]) for name in stored.files]
    with atomic_path(f"{task['block_path']}.npy") as temporary:
        with open(temporary, "wb") as file:
            np.save(file, encoded(encode, items))


def checked_path(model: Embedder, option: str) -> str:
    """Returns the path of a model for other processes. Raises for a model in memory."""
    if model.in_memory:
        raise InputError(
            f"model must be a path if `{option}` is set, because other processes open "
            "the model again. Received: a model in memory."
        )
    return model.name


def _encoder(model: Embedder, kind: str) -> tuple[Callable, str]:
    """Returns the encode function of `"image"` or `"text"`, and its fingerprint."""
    return getattr(model, f"encode_{kind}s"), getattr(model, f"{kind}_fingerprint")


def _as_arrays(items: Iterable[Item]) -> Iterator[tuple[str, np.ndarray]]:
    """Converts items to arrays. Yields (name, array). Names begin with the kind."""
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray):
            yield f"pixels{number}", item
            continue
        if isinstance(item, pathlib.Path):
            kind = "path"
            content = os.fsencode(item.absolute())
        elif isinstance(item, str):
            kind = "text"
            content = item.encode("utf-8", "surrogatepass")
        else:
            kind = "file"
            content = item
        yield f"{kind}{number}", np.frombuffer(content, np.uint8)


def _as_item(name: str, array: np.ndarray) -> Item:
    """Converts an array from `_as_arrays` back to its item."""
    if name.startswith("pixels"):
        return array
    content = array.tobytes()
    if name.startswith("path"):
        return pathlib.Path(os.fsdecode(content))
    if name.startswith("text"):
        return content.decode("utf-8", "surrogatepass")
    return content

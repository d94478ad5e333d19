"""Open index that several threads share, and that is opened again after a rebuild."""

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable

from align_keras.embedders.embedder import Embedder
from align_keras.search.image_index import Index
from align_keras.search.index.opening import default_index
from align_keras.search.serve.text_batches import TextCache

# Inode and modification time of `index.json`, which change when the index is built
# again, or None for a database.
_Stamp = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class OpenIndex:
    """Open index.

    Attributes:
        stamp: inode and modification time of its folder before opening.
        state: value that changes with each rebuild.
        index: `Index`.
        texts: `TextCache` of the index's model.
    """

    stamp: _Stamp
    state: str
    index: Index
    texts: TextCache


class SharedIndex:
    """Index that several threads share. After a rebuild, it is opened again.

    Args:
        folder: path or address of the index, by default `default_index()`.
        model: model name, path or `Embedder`, by default the model of the index.
        on_texts: argument of `TextCache`.

    Raises:
        InputError: as `Index.open`.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        model: str | os.PathLike | Embedder | None,
        on_texts: Callable[[int, int], object] | None = None,
    ) -> None:
        self._folder = default_index() if folder is None else folder
        self._model = model
        self._on_texts = on_texts
        self._lock = threading.Lock()
        self._open: OpenIndex | None = None
        self.get()

    def get(self) -> OpenIndex:
        """Returns the index after a first search, which loads the large files."""
        with self._lock:
            stamp = self._stamp()
            if self._open is None or self._open.stamp != stamp:
                index = Index.open(self._folder, self._model)
                index.query("a", k=1)
                digest = hashlib.blake2b(repr(stamp).encode(), digest_size=6)
                texts = TextCache(index.model.encode_texts, on_texts=self._on_texts)
                self._open = OpenIndex(stamp, digest.hexdigest(), index, texts)
            return self._open

    def _stamp(self) -> _Stamp:
        try:
            status = os.stat(os.path.join(self._folder, "index.json"))
        except OSError:
            # The index is in a database, or it is missing and `Index.open` raises an
            # error.
            return None
        return status.st_ino, status.st_mtime_ns

"""Index of images that can be searched by texts, by images and by both."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shlex
import shutil
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.index.folder_files import ENCODINGS
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.image_store import (
    NO_MODEL,
    ImageStore,
    ModelIdentity,
    ScannedRows,
)
from align_keras.search.index.opening import (
    check_model_of_writer,
    default_index,
    identity_of,
    is_database,
    load_named_model,
    open_index_model,
    store_class,
)
from align_keras.search.index.schema import LeftOutFile
from align_keras.search.query.hits import Hit
from align_keras.search.query.query import Query
from align_keras.search.query.searcher import Searcher
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import replace_folder
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.search.update.changes import Changes


class Index:
    """Index of images that can be searched by texts, by images and by both.

    `Index.build` embeds the images of folders and tables. `Index.from_embeddings` uses
    embeddings that are already computed. `Index.open` opens an existing index. Search
    with a model of LiteRT towers does not need TensorFlow (Jia et al. 2021, section 7).

    Scores are exact inner products, so equal images have equal scores.

    Attributes:
        folder: pathlib.Path of the folder, or str, address of the database.
        changes: counts of the last `build`, or None.

    Example:

    >>> index = Index.from_embeddings(np.eye(2), ["cat.jpg", "dog.jpg"])
    >>> [hit.path for hit in index.query(np.array([0.0, 1.0]), k=1)]
    ['dog.jpg']

    With image files and the model of the package:

    ```python
    index = Index.build("my_index", ["photos"])
    for hit in index.query("a red flower", k=3):
        print(hit.score, hit.path)
    query = align_keras.search.Query(
        image="photos/china.jpg", plus="snow", where="width > 500"
    )
    index.query(query)[0].rank  # 1
    ```
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.folder = store.folder
        self.changes: Changes | None = None
        self._model: Embedder | None = None

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Embedder | None = None,
        *,
        engine: str = LOCAL,
        vectors: str | None = None,
    ) -> "Index":
        """Builds an index of folders and tables, or updates an existing index.

        Args:
            folder: path of the index, or address of a PostgreSQL database with
                pgvector, `postgresql://user@host/database`.
            sources: sequence of paths: folders of images, built corpora, and tables
                (CSV, TSV, JSONL) of images with captions. Without sources, the sources
                of the existing index are scanned again.
            model: model name, path or `Embedder`, as in `align_keras.load_model`. The
                default is the model of the index, and `"align_small_en"` for a new
                index.
            engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`. On a
                cluster, all machines must see the images and `folder` at the same
                paths.
            vectors: `"float32"` or `"float16"`, encoding of the embeddings on disk.
                The default is the encoding of the index, and float32 for a new index.

        Returns:
            `Index`.

        Raises:
            InputError: if a source does not exist, another process is writing the
                index, or the index has another model or other `vectors`.
        """
        is_cluster(engine)  # This call raises InputError for an unknown engine.
        if vectors is not None:
            check_choice("`vectors`", vectors, ENCODINGS)
        kind = store_class(folder)
        if model is None and not kind.exists(folder):
            model = DEFAULT_MODEL
        opened = None if model is None else load_model(model)
        if opened is not None:
            kind.create(folder, identity_of(opened), vectors)
        index = cls._open(folder, opened)
        if vectors is not None and index.store.encoding != vectors:
            raise InputError(
                f"`vectors` must be the encoding of the index {folder}, "
                f"{index.store.encoding}. Received: vectors={vectors!r}. Embed "
                "its images again with `align-keras index --rebuild --vectors "
                f"{vectors} --index {shlex.quote(os.fspath(folder))}`."
            )
        index.changes = index.add(sources, engine)
        return index

    @classmethod
    def from_embeddings(
        cls,
        embeddings: np.ndarray,
        ids: Sequence[str],
        captions: Sequence[str | Sequence[str]] | None = None,
        *,
        images: Sequence[bytes] | None = None,
        folder: str | os.PathLike | None = None,
        model: str | os.PathLike | Embedder | ModelIdentity | None = None,
    ) -> "Index":
        """Builds an index from embeddings that are already computed.

        Args:
            embeddings: real array (n, d) of finite numbers. With rows of unit length,
                scores are cosine similarities.
            ids: sequence of n different str. The id is `Hit.path`, and conditions can
                use it as `path` and as `name`.
            captions: sequence of n entries, each a str or a sequence of str, or None.
            images: sequence of n bytes, or None. Contents of small PNG, JPEG, GIF, BMP
                or WebP files, of which the index stores copies.
            folder: path of the index. An existing index is replaced once the new index
                is complete. With None, the index is in a temporary folder that is
                deleted together with the returned object.
            model: model that computed the embeddings, as in `align_keras.load_model`,
                or a `ModelIdentity`. It embeds the texts and images of queries.
                Without a model, each query must be an embedding.

        Returns:
            `Index`, whose images have the ids 1 to n in this order.

        Raises:
            InputError: if the lengths differ, ids are equal, embeddings are not finite,
                an image has an unsupported format, or `folder` contains something
                other than an index.

        Example:

        >>> index = Index.from_embeddings(np.eye(3), ids=["a", "b", "c"])
        >>> [(hit.path, hit.score) for hit in index.query(np.array([0.0, 0.8, 0.6]), 2)]
        [('b', 0.8), ('c', 0.6)]
        """
        from align_keras.search.update.embedding_index import (
            check_embeddings,
            write_embedding_index,
        )

        embeddings = check_embeddings(embeddings)
        opened = None
        if model is None:
            identity = ModelIdentity(NO_MODEL, NO_MODEL, embeddings.shape[1])
        elif isinstance(model, ModelIdentity):
            identity = model
        else:
            opened = load_model(model)
            identity = identity_of(opened)
        if identity.dimension != embeddings.shape[1]:
            raise InputError(
                f"`embeddings` must have the model's dimension, {identity.dimension}. "
                f"Received: {embeddings.shape[1]}. Pass embeddings of this model."
            )
        if folder is not None:
            write_embedding_index(folder, embeddings, ids, captions, images, identity)
            return cls.open(folder, opened)
        import tempfile

        temporary = tempfile.mkdtemp(prefix="align_keras_index_")
        try:
            folder = os.path.join(temporary, "index")
            write_embedding_index(folder, embeddings, ids, captions, images, identity)
            index = cls.open(folder, opened)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        weakref.finalize(index, shutil.rmtree, temporary, ignore_errors=True)
        return index

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike | None = None,
        model: str | os.PathLike | Embedder | None = None,
    ) -> "Index":
        """Opens an existing index. Vectors are read from disk when they are needed.

        Args:
            folder: path or address of the index. The default is `default_index()`.
            model: model name, path or `Embedder`, as in `build`. By default, the model
                of the index is loaded when it is first needed.

        Returns:
            `Index`.

        Raises:
            InputError: if there is no index, it is damaged, or it was built with
                another model.
        """
        index = cls._open(default_index() if folder is None else folder, model)
        index.store.check_complete()
        return index

    @classmethod
    def _open(
        cls, folder: str | os.PathLike, model: str | os.PathLike | Embedder | None
    ) -> "Index":
        """Opens an index without checking that it is complete."""
        # `add` completes an index whose last run was killed.
        index = cls(store_class(folder)(folder))
        if model is not None:
            index._model = load_named_model(index.store, model)
        return index

    def __len__(self) -> int:
        return len(self.store)

    @functools.cached_property
    def searcher(self) -> Searcher:
        """Searches of the index."""
        return Searcher(self.store)

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return self.store.dimension

    @property
    def model(self) -> Embedder:
        """Model of the index. The first access loads it."""
        if self._model is None:
            self._model = open_index_model(self.store)
        return self._model

    def add(
        self, sources: Sequence[str | os.PathLike] = (), engine: str = LOCAL
    ) -> "Changes":
        """Updates the index with folders and tables.

        New and changed images are embedded, and deleted images are removed. A renamed
        or moved file is recognized by its content and is not embedded again.

        Args:
            sources: as in `build`. Without sources, the sources of
                the index are scanned again.
            engine: where the tasks run, as in `build`.

        Returns:
            The numbers of added, changed, renamed and removed images.

        Raises:
            RebuiltIndexError: if the index was built again with another model after it
                was opened.
            InputError: if a source does not exist, or another process is writing the
                index.
        """
        # The import of the decoders takes as long as a query, which does not need them.
        from align_keras.search.update.update import update

        if is_cluster(engine) and is_database(self.folder):
            raise InputError(
                f"`engine` must be 'local' for a database. Received: engine={engine}. "
                "To use several machines, run the same command on each machine. The "
                "machines divide the images among themselves."
            )
        model = self.model
        with self.store.writing() as store:
            check_model_of_writer(store, model)
            changes = update(store, model, sources, engine)
        # Maps the new vectors into memory, so that this object can continue to search
        # them after a rebuild has replaced the folder.
        self.store.sample()
        return changes

    @classmethod
    def rebuild(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Embedder | None = None,
        *,
        engine: str = LOCAL,
        vectors: str | None = None,
    ) -> "Index":
        """Embeds all images again, for example with another model.

        The new index is built in a folder next to the old index, which can be searched
        until the new index replaces it. If a rebuild is killed, the next rebuild
        continues with its embeddings.

        Args:
            folder: path of the old index.
            sources: as in `build`. The default is the sources of the
                old index.
            model: model name, path or `Embedder`, as in `build`. The default is the
                model of the old index.
            engine: where the tasks run, as in `build`.
            vectors: encoding of the embeddings on disk, as in `build`.

        Returns:
            The new index.

        Raises:
            InputError: as in `build`, and if the index is in a database, was made from
                embeddings, or gets or loses a source during the rebuild.
        """
        if is_database(folder):
            raise InputError(
                "`rebuild` must be called for an index in a folder. Received: a "
                "database. Create another database for the other model."
            )
        folder = pathlib.Path(folder)
        old = cls._open(folder, None)
        if old.store.has_items:
            raise InputError(
                "`rebuild` must be called for an index of folders and tables. "
                f"Received: {folder}, which was made from embeddings. Build it again "
                "with `Index.from_embeddings` or with the command of its run."
            )
        old_roots = old.store.sources()
        has_sources = bool(sources)
        sources = list(sources) or [os.fsdecode(root) for root in old_roots]
        opened = old.model if model is None else load_model(model)
        new_folder = folder.with_name(f".{folder.name}.rebuild")
        vectors = vectors or old.store.encoding
        if FolderStore.exists(new_folder):
            # An earlier rebuild was killed. Its embeddings are used if it has the same
            # model and encoding.
            store = cls.open(new_folder).store
            fingerprint = store.header["model"]["fingerprint"]
            if (fingerprint, store.encoding) != (opened.fingerprint, vectors):
                # A rebuild that is still running holds the lock.
                with FolderStore.locked(new_folder):
                    shutil.rmtree(new_folder)
        new = cls.build(new_folder, sources, opened, engine=engine, vectors=vectors)
        new._remove_other_sources(sources)
        with FolderStore.locked(folder), FolderStore.locked(new_folder):
            # Another rebuild may have replaced the new folder.
            new.store.refuse_rebuilt()
            if not has_sources:
                _check_same_sources(folder, old_roots)
            replace_folder(folder, new_folder)
        index = cls.open(folder, opened)
        index.changes = new.changes
        return index

    def _remove_other_sources(self, sources: Sequence[str | os.PathLike]) -> None:
        """Removes the sources of an earlier rebuild that this rebuild does not have."""
        from align_keras.search.update.source_scan import resolve_source

        roots = {resolve_source(source) for source in sources}
        others = [
            os.fsdecode(root) for root in self.store.sources() if root not in roots
        ]
        if others:
            self.remove(others)

    def remove(self, paths: Iterable[str | os.PathLike]) -> int:
        """Removes images from the index. Their files are not deleted.

        Args:
            paths: iterable of paths of images, folders or tables. All images of a
                folder or table are removed, and later updates no longer scan it.

        Returns:
            Number of removed images.
        """
        from align_keras.search.update.removal import remove

        with self.store.writing() as store:
            return remove(store, paths)

    def left_out(self) -> list[LeftOutFile]:
        """Returns the files of the sources that have no image in the index.

        Returns:
            `LeftOutFile` as the last update found them, sorted by path.
        """
        # The import of `corpus` takes a third of the time of a search.
        from align_keras.corpus.drop_counter import printable

        return sorted(
            LeftOutFile(printable(os.fsdecode(file)), record.reason, record.detail)
            for file, record in self.store.unreadable().items()
        )

    def export(self, to: str | os.PathLike) -> list[pathlib.Path]:
        """Writes the ids, columns and vectors of all images to files.

        Vector databases and data frames read these files. The metadata of the Parquet
        file have the model and its fingerprint under the key `align_keras`.

        Args:
            to: path of `FILE.parquet`, or of `FILE.npy`. Next to an NPY file,
                `FILE.csv` has the columns and `FILE.json` the metadata.

        Returns:
            The written files.

        Raises:
            InputError: if `to` has another suffix, or an embedding is damaged.

        Example:

        ```python
        index = Index.from_embeddings(np.eye(2), ids=["a", "b"])
        index.export("vectors.parquet")  # [PosixPath('vectors.parquet')]
        ```
        """
        from align_keras.search.index.vector_export import export_vectors

        return export_vectors(self.store, to)

    def check(self) -> int:
        """Compares every embedding with its stored checksum.

        Returns:
            Number of embeddings that were compared. It is 0 for a database, which
            has page checksums.

        Raises:
            InputError: if a part of the index is damaged. The message names the file
                and the command that writes it again.
        """
        return self.store.check()

    def query(
        self,
        query: Query | str | np.ndarray,
        k: int | None = None,
        *,
        where: str | None = None,
        duplicates: bool | None = None,
    ) -> list[Hit]:
        """Searches for the images that match a query best.

        Args:
            query: `Query`, str with the words to search for, or float array (d,), an
                embedding.
            k: maximum number of hits. Overrides `Query.k`.
            where: condition on columns. Overrides `Query.where`.
            duplicates: True to return near-duplicates as separate hits. Overrides
                `Query.duplicates`.

        Returns:
            list of `Hit` in descending order of the score, with fewer than `k` hits if
            fewer images fulfill `where`. Hits with equal scores are in the order in
            which they were indexed. If the query is only a condition, the hits are the
            images that were indexed last.

        Raises:
            InputError: if an embedding has the wrong width, `k` < 1, or `where` is not
                a valid condition.
        """
        embedding = query if isinstance(query, np.ndarray) else None
        request = query if isinstance(query, Query) else Query()
        if isinstance(query, str):
            request = Query(query)
        options: dict[str, Any] = {"k": k, "where": where, "duplicates": duplicates}
        changes = {name: value for name, value in options.items() if value is not None}
        request = dataclasses.replace(request, **changes)
        if embedding is not None:
            return self.searcher.search(embedding, request)
        if not request.has_content:
            return self.searcher.latest(request.where, request.k)
        return self.searcher.query(request, self.model)

    def search(
        self, embedding: np.ndarray, query: Query, scanned: ScannedRows | None = None
    ) -> list[Hit]:
        """Searches with the embedding of a query.

        Args:
            embedding: float (d,), embedding of the query.
            query: its condition and options apply. Its texts and image only determine
                whether the hits have a `relevance`.
            scanned: scores of the embedding from `store.scan_many`, which spare a scan.

        Returns:
            Hits, as `query` returns them.
        """
        return self.searcher.search(embedding, query, scanned)

    def embedding(self, id: int) -> np.ndarray:
        """Returns the embedding of an image of the index, float32 (d,)."""
        return self.searcher.embedding(id)

    def latest(self, where: str | None = None, k: int = 10) -> list[Hit]:
        """Returns the images that were indexed last.

        Args:
            where: condition on columns, or None for all images.
            k: maximum number of hits.

        Returns:
            Hits without score and relevance, the latest image first.

        Raises:
            InputError: if `where` is not a valid condition.
        """
        return self.searcher.latest(where, k)


def _check_same_sources(folder: pathlib.Path, roots: dict[bytes, int]) -> None:
    """Raises InputError if another process added or removed a source of an index."""
    with contextlib.closing(FolderStore(folder)) as store:
        changed = sorted(roots.keys() ^ store.sources().keys())
    if changed:
        raise InputError(
            f"The index {folder} must keep its sources during a rebuild. Received: a "
            f"change of {os.fsdecode(changed[0])}. Run the same command again, which "
            "continues with the finished embeddings."
        )

"""Index of images that can be searched by texts, by images and by both."""

import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.presets.hub import is_hub_name
from align_keras.search.index.folder_files import (
    ENCODINGS,
    run_index_command,
    stored_image_of,
)
from align_keras.search.index.folder_store import FolderStore
from align_keras.search.index.image_store import RankedRows, ScannedRows
from align_keras.search.index.index_model import open_index_model
from align_keras.search.index.schema import (
    NO_MODEL,
    LeftOutFile,
    ModelIdentity,
    path_of_image,
)
from align_keras.search.index.sqlite_database import RebuiltIndexError
from align_keras.search.query.image_details import DetailsCache, ImageDetails
from align_keras.search.query.query import Hit, Query, relevance
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.files import replace_folder
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.search.update.update import Changes

# Minimum cosine similarity of near-duplicates. With align_small_en and 80 JPEGs, the
# threshold detects 97% of the copies at 0.7 times the size, 91% at half the size, 76%
# with 2% cropped on each side, and 65% at JPEG quality 50. Among 962 stamp images it
# detects 24 pairs, which are mirrored or nearly the same.
NEAR_DUPLICATE_COSINE = 0.95
# Number of rows that are compared with each other at a time, and maximum number of
# similarities that are in memory at a time.
_ROWS_PER_PART = 64
SCORES_PER_PART = 1_000_000
# Matches connection strings of libpq such as `host=db password=…`, which would
# otherwise be treated as paths of folders.
_KEY_AND_VALUE = re.compile(r"(^|\s)(host|hostaddr|dbname|user|password)\s*=")


def is_database(location: str | os.PathLike) -> bool:
    """Returns True for the address of a PostgreSQL database, and False for a path.

    Raises:
        InputError: if the location is a connection string with `host=` or the like.
    """
    if not isinstance(location, str):
        return False
    if _KEY_AND_VALUE.search(location):
        raise InputError(
            "An index in a database must be named by its address. Received: "
            f"{location!r}. Write it as postgresql://USER@HOST/DATABASE."
        )
    return location.startswith(("postgresql:", "postgres:"))


def default_index() -> str | pathlib.Path:
    """Returns the path or address of the default index.

    It is `$ALIGN_KERAS_INDEX`, or the folder `align_keras/index` in `$XDG_DATA_HOME`
    (by default `~/.local/share`).
    """
    location = os.environ.get("ALIGN_KERAS_INDEX")
    if location:
        return location if is_database(location) else pathlib.Path(location)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "index")


class Index:
    """Index of images that can be searched by texts, by images and by both.

    `Index.build` embeds the images of folders and tables. `Index.from_embeddings` uses
    embeddings that are already computed. `Index.open` opens an existing index. Search
    with a model of LiteRT towers does not need TensorFlow (Jia et al. 2021, section 7).

    Scores are exact inner products, so equal images have equal scores.

    Attributes:
        folder: pathlib.Path of the folder, or str, address of the database.
        changes: `Changes`, the counts of the last `build`, or None.

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

    def __init__(self, store: Any) -> None:
        self.store = store
        self.folder = store.folder
        self._model: Embedder | None = None
        self.changes: Changes | None = None
        self._details = DetailsCache(store)
        self._sample: tuple | None = None
        self._column_values: tuple | None = None

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
        _check_encoding(folder, vectors)
        kind = _kind_of_store(folder)
        if model is None and not kind.exists(folder):
            model = DEFAULT_MODEL
        opened = None if model is None else load_model(model)
        if opened is not None:
            options = {} if vectors is None else {"encoding": vectors}
            kind.create(folder, _identity_of(opened), **options)
        index = cls._open(folder, opened)
        if vectors is not None and index.store.vectors.encoding != vectors:
            raise InputError(
                f"`vectors` must be the encoding of the index {folder}, "
                f"{index.store.vectors.encoding}. Received: vectors={vectors!r}. Embed "
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
        vectors: str = "float32",
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
            vectors: encoding of the embeddings on disk, as in `build`.

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
        check_choice("`vectors`", vectors, ENCODINGS)
        largest = float(np.abs(embeddings).max())
        if vectors == "float16" and largest > float(np.finfo(np.float16).max):
            raise InputError(
                "`embeddings` must have numbers of at most 65,504 for "
                f"vectors='float16'. Received: {largest:g}. Scale them to unit length."
            )
        opened = None
        if not isinstance(model, ModelIdentity | None):
            opened = load_model(model)
        identity = model if isinstance(model, ModelIdentity) else _identity_of(opened)
        if identity is None:
            identity = ModelIdentity(NO_MODEL, NO_MODEL, embeddings.shape[1])
        if identity.dimension != embeddings.shape[1]:
            raise InputError(
                f"`embeddings` must have the model's dimension, {identity.dimension}. "
                f"Received: {embeddings.shape[1]}. Pass embeddings of this model."
            )
        if folder is not None:
            write_embedding_index(
                folder, embeddings, ids, captions, images, identity, vectors
            )
            return cls.open(folder, opened)
        temporary = tempfile.mkdtemp(prefix="align_keras_index_")
        try:
            folder = os.path.join(temporary, "index")
            write_embedding_index(
                folder, embeddings, ids, captions, images, identity, vectors
            )
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
        """Opens an index without checking that it is complete.

        `add` completes an index whose last run was killed.
        """
        index = cls(_kind_of_store(folder)(folder))
        if model is not None:
            opened = load_model(model)
            # A model that the user names has the dimensions of the index.
            dimensions = index.store.header["model"].get("dimensions")
            if dimensions is not None and opened.truncated_to is None:
                opened = load_model(opened, dimensions=dimensions)
            index._model = index._check_model(opened)
        return index

    def __len__(self) -> int:
        return len(self.store)

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return self.store.dimension

    @property
    def model(self) -> Embedder:
        """Model of the index. The first access loads it."""
        if self._model is None:
            reference = self.store.header["model"]
            name = reference["name"]
            if name == NO_MODEL:
                raise InputError(
                    f"`query` must be an embedding, because the index {self.folder} "
                    "has no model. Build it with `Index.from_embeddings(…, model=…)` "
                    "to search it by words."
                )
            options = _model_options(reference)
            try:
                opened = open_index_model(reference)
            except InputError as error:
                remedy = "If the model was moved, pass its path with --model."
                if is_hub_name(name):
                    remedy = f"Add `{options}` to download it."
                raise InputError(
                    f"The model of the index {self.folder} must be on this machine. "
                    f"Received: {name!r:.200} ({error}). {remedy}"
                ) from None
            if opened is None:
                raise InputError(
                    f"The index {self.folder} must be opened with --model. Received: "
                    f"an index with the model {name!r:.200}, which may run code when "
                    f"it is loaded. If you trust it, add `{options}` to each command."
                )
            self._model = self._check_model(opened)
        return self._model

    def _check_model(self, model: Embedder) -> Embedder:
        """Returns the model, or raises InputError if the index has another model."""
        index_model = self.store.header["model"]
        is_same = model.fingerprint == index_model["fingerprint"]
        if is_same and model.dimension == self.store.dimension:
            return model
        rule = (
            f"The index {self.folder} must be searched with the model that computed "
            f"its embeddings, {index_model['name']} ({index_model['fingerprint']}). "
            f"Received: {model.name} ({model.fingerprint})."
        )
        if self.store.has_items:
            command = run_index_command(pathlib.Path(self.folder))
            writer = f"`{command}`" if command else "`Index.from_embeddings`"
            raise InputError(
                f"{rule} Write the index again with {writer}, or use the model of the "
                "index."
            )
        sources = [shlex.quote(os.fsdecode(root)) for root in self.store.sources()]
        command = " ".join(["align-keras index", *sources])
        raise InputError(
            f"{rule} Rebuild the index with `{command} --index "
            f"{shlex.quote(str(self.folder))} {_model_options(model.reference())} "
            "--rebuild`."
        )

    def add(
        self, sources: Sequence[str | os.PathLike] = (), engine: str = LOCAL
    ) -> "Changes":
        """Updates the index with folders and tables.

        New and changed images are embedded, and deleted images are removed. A renamed
        or moved file is recognized by its content and is not embedded again.

        Args:
            sources: sequence of paths, as in `build`. Without sources, the sources of
                the index are scanned again.
            engine: where the tasks run, as in `build`.

        Returns:
            `Changes`, the numbers of added, changed, renamed and removed images.

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
            self._check_model_of_writer(store, model)
            changes = update(store, model, sources, engine)
        # Maps the new vectors into memory, so that this object can continue to search
        # them after a rebuild has replaced the folder.
        self.store.sample()
        return changes

    def _check_model_of_writer(self, store: Any, model: Embedder) -> None:
        """Raises RebuiltIndexError if the stored index now has another model.

        Another process can rebuild the index between the opening of this object and
        the opening of the store for writing.
        """
        stored = store.header["model"]
        is_same = stored["fingerprint"] == model.fingerprint
        if is_same and store.dimension == model.dimension:
            return
        raise RebuiltIndexError(
            f"The index {self.folder} must have the model with which it was opened, "
            f"{model.name} ({model.fingerprint}). Received: an index that was built "
            f"again with {stored['name']} ({stored['fingerprint']}). Open it again, or "
            "start the command again."
        )

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
            sources: sequence of paths, as in `build`. The default is the sources of the
                old index.
            model: model name, path or `Embedder`, as in `build`. The default is the
                model of the old index.
            engine: where the tasks run, as in `build`.
            vectors: encoding of the embeddings on disk, as in `build`.

        Returns:
            `Index`, the new index.

        Raises:
            InputError: as in `build`, and if the index is in a database, was made from
                embeddings, or gets or loses a source during the rebuild.
        """
        if is_database(folder):
            raise InputError(
                "`rebuild` must be called for an index in a folder. Received: a "
                "database. Create another database for the other model."
            )
        _check_encoding(folder, vectors)
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
        vectors = vectors or old.store.vectors.encoding
        if FolderStore.exists(new_folder):
            # An earlier rebuild was killed. Its embeddings are used if it has the same
            # model and encoding.
            store = cls.open(new_folder).store
            fingerprint = store.header["model"]["fingerprint"]
            if (fingerprint, store.vectors.encoding) != (opened.fingerprint, vectors):
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
        from align_keras.search.update.update import resolve_source

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
            int, number of removed images.
        """
        from align_keras.search.update.update import remove

        with self.store.writing() as store:
            return remove(store, paths)

    def left_out(self) -> list[LeftOutFile]:
        """Returns the files of the sources that have no image in the index.

        Returns:
            list of `LeftOutFile`, as the last update found them, sorted by path.
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
            list of pathlib.Path, the written files.

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
            int, number of embeddings that were compared. It is 0 for a database, which
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
            k: int >= 1, maximum number of hits. Overrides `Query.k`.
            where: str, condition on columns. Overrides `Query.where`.
            duplicates: bool, True to return near-duplicates as separate hits. Overrides
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
            return self.search(embedding, request)
        if request.has_content:
            return self.search(self.encode(request), request)
        return self.latest(request.where, request.k)

    def encode(self, query: Query) -> np.ndarray:
        """Returns a query's embedding, float32 (d,), of unit length."""
        stored = [self._embed_query_image(image) for image in query.images]
        return query.encode(self.model, stored)

    def _embed_query_image(self, image: Any) -> np.ndarray:
        """Returns the embedding of an image of a query, float32 (d,)."""
        if isinstance(image, int | np.integer):
            return self.embedding(int(image))
        # The import of the decoders takes as long as a query by words, which does not
        # need them.
        from align_keras.search.readers.image_files import read_query_image

        pixels = read_query_image(image, self.model.resize_to)
        embedding: np.ndarray = self.model.encode_resized([pixels])[0]
        return embedding

    def embedding(self, id: int) -> np.ndarray:
        """Returns the embedding of an image of the index, float32 (d,)."""
        return self.store.with_stable_rows(
            lambda: self.store.vector(self.store.image(id)["row"])
        )

    def search(
        self, embedding: np.ndarray, query: Query, scanned: ScannedRows | None = None
    ) -> list[Hit]:
        """Searches with the embedding of a query.

        Args:
            embedding: float (d,), embedding of the query.
            query: `Query`, whose condition and options apply. Its texts and image only
                determine whether the hits have a `relevance`.
            scanned: `ScannedRows` of the embedding from `store.scan_many`, which spares
                a scan, or None.

        Returns:
            list of `Hit`, as `query` returns them.
        """
        embedding = self._check_embedding(embedding)
        condition = self.store.condition(query.where)

        if query.duplicates is None:
            query = dataclasses.replace(query, duplicates=self.store.has_items)

        def ranked_images() -> list[_RankedImage]:
            ranked = self.store.ranked(embedding, *condition, query.k, scanned)
            results = merge_near_duplicates(ranked, query)
            rows = [result.row for result in results]
            self.store.check_rows(rows)
            details = self._details.of_rows(rows)
            copies = [row for result in results for row in result.copies]
            copied_images = self.store.images_of_rows(copies) if copies else {}
            return [
                _RankedImage(
                    result.score,
                    details[result.row],
                    [
                        path_of_image(copied_images[row])
                        for row in result.copies
                        if row in copied_images
                    ],
                )
                for result in results
                # Another process may have removed an image since `ranked` read it.
                if result.row in details
            ]

        images = self.store.with_stable_rows(ranked_images)
        probabilities: Sequence[float | None] = [None] * len(images)
        if query.has_relevance:
            scores = np.array([image.score for image in images])
            sample, count = self._get_sample()
            if scanned is None:
                sample_scores = sample @ embedding
            else:
                sample_scores = self.store.sample_scores(scanned)
            probabilities = relevance(scores, sample_scores, count)
        ranked = enumerate(zip(images, probabilities, strict=True), start=1)
        return [
            _make_hit(image.details, rank, image.score, probability, image.copies)
            for rank, (image, probability) in ranked
        ]

    def _get_sample(self) -> tuple[np.ndarray, int]:
        """Returns a sample of the embeddings, and the number of images in the index.

        The sample is cached until the index changes.
        """
        version = self.store.database.version
        if self._sample is None or self._sample[0] != version:
            sample = self.store.sample()
            if not len(sample):
                sample = np.zeros((1, self.store.dimension), np.float32)
            self._sample = version, sample, len(self)
        _, sample, count = self._sample
        return sample, count

    def column_values(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the values of the text columns with few values, as `count_values`.

        The values are cached until the index changes. In an index of a million images,
        counting takes about 0.3 seconds per column.
        """
        # A search from the command line does not need this import.
        from align_keras.search.query.column_values import count_values

        version = self.store.database.version
        if self._column_values is None or self._column_values[0] != version:
            self._column_values = version, count_values(self.store.tables)
        _, values = self._column_values
        return values

    def latest(self, where: str | None = None, k: int = 10) -> list[Hit]:
        """Returns the images that were indexed last.

        Args:
            where: str, condition on columns, or None for all images.
            k: int >= 1, maximum number of hits.

        Returns:
            list of `Hit` without score and relevance, the latest image first.

        Raises:
            InputError: if `where` is not a valid condition.
        """
        images = self.store.latest(*self.store.condition(where), k)
        return [
            _make_hit(details, rank, None, None, [])
            for rank, details in enumerate(self._details.of_images(images), start=1)
        ]

    def stored_image(self, image: dict[str, Any]) -> pathlib.Path | None:
        """Returns the path of the copy of an image in the index, or None.

        Args:
            image: dict, columns of the image from `store.image`.
        """
        return stored_image_of(image, self.folder)

    def _check_embedding(self, embedding: np.ndarray) -> np.ndarray:
        embedding = np.ascontiguousarray(embedding, np.float32)
        if embedding.shape != (self.store.dimension,):
            raise InputError(
                f"`query` must have shape ({self.store.dimension},) for this index. "
                f"Received: shape {embedding.shape}. Compute the embedding with the "
                "model of the index."
            )
        if not np.isfinite(embedding).all():
            raise InputError(
                "`query` must be finite. Received: NaN or infinity. Compute the "
                "embedding again."
            )
        return embedding


class _RankedImage(NamedTuple):
    """Image in the result of a search, with the paths of its near-duplicates."""

    score: float
    details: ImageDetails
    copies: list[str]


@dataclasses.dataclass(slots=True)
class RankedRow:
    """Row in the result of a search, with the rows of its near-duplicates."""

    score: float
    row: int
    copies: list[int] = dataclasses.field(default_factory=list)


def merge_near_duplicates(
    ranked: Iterable[RankedRows], query: Query
) -> list[RankedRow]:
    """Merges near-duplicates into the best image among them.

    Args:
        ranked: blocks of rows in descending order of the score.
        query: `Query`, whose `k` and `duplicates` apply.

    Returns:
        list of the `k` best `RankedRow`. The copies are the near-duplicates that were
        merged into the row.
    """
    merged = _MergedRows(query.k)
    for block in ranked:
        if query.duplicates:
            merged.append_all(block)
        else:
            merged.merge(block)
        if len(merged.results) >= query.k:
            break
    return merged.results


class _MergedRows:
    """Results of `merge_near_duplicates`, and their vectors.

    Args:
        k: int, maximum number of results.
    """

    def __init__(self, k: int) -> None:
        self.results: list[RankedRow] = []
        self._k = k
        # The size of the array is doubled when it is full.
        self._vectors = np.zeros((64, 0), np.float32)

    def append_all(self, block: RankedRows) -> None:
        """Adds the rows of a block to the results without merging them."""
        count = self._k - len(self.results)
        self.results += map(
            RankedRow, block.scores[:count].tolist(), block.rows[:count].tolist()
        )

    def merge(self, block: RankedRows) -> None:
        """Adds each row of a block to the results or to the copies of a result."""
        start = 0
        while start < len(block.rows):
            stop = start + _ROWS_PER_PART
            num_results = len(self.results)
            if num_results >= self._k:
                # No row becomes a result, so the rows are not compared with each other.
                stop = start + max(_ROWS_PER_PART, SCORES_PER_PART // num_results)
            self._merge_part(RankedRows(*(values[start:stop] for values in block)))
            start = stop

    def _merge_part(self, part: RankedRows) -> None:
        num_old = len(self.results)
        old_vectors = self._vectors[:num_old]
        if not num_old:
            old_vectors = part.vectors[:0]
        is_near_old: np.ndarray = part.vectors @ old_vectors.T >= NEAR_DUPLICATE_COSINE
        has_near = np.asarray(is_near_old.any(axis=1))
        is_near_part = None
        if num_old < self._k:
            is_near_part = part.vectors @ part.vectors.T >= NEAR_DUPLICATE_COSINE
            has_near = has_near | np.tril(is_near_part, -1).any(axis=1)
        rows, scores = part.rows.tolist(), part.scores.tolist()
        # Positions in the part that become results.
        added: list[int] = []
        for position, may_be_copy in enumerate(has_near.tolist()):
            if may_be_copy:
                is_near = is_near_old[position]
                if is_near_part is not None:
                    is_near = np.append(is_near, is_near_part[position, added])
                if is_near.any():
                    best = int(np.argmax(is_near))
                    self.results[best].copies.append(rows[position])
                    continue
            if len(self.results) < self._k:
                self.results.append(RankedRow(scores[position], rows[position]))
                added.append(position)
        self._append_vectors(num_old, part.vectors[added])

    def _append_vectors(self, start: int, vectors: np.ndarray) -> None:
        """Writes vectors after the first `start` vectors."""
        stop = start + len(vectors)
        if not start:
            self._vectors = np.zeros((len(self._vectors), vectors.shape[1]), np.float32)
        while stop > len(self._vectors):
            unused = np.zeros_like(self._vectors)
            self._vectors = np.concatenate([self._vectors, unused])
        self._vectors[start:stop] = vectors


def _make_hit(
    details: ImageDetails,
    rank: int,
    score: float | None,
    probability: float | None,
    copies: list[str],
) -> Hit:
    """Returns a hit with values of its own, because the details are shared."""
    return Hit(
        rank=rank,
        score=None if score is None else round(score, 6),
        id=details.id,
        path=details.path,
        relevance=probability,
        captions=list(details.captions),
        columns=dict(details.columns),
        duplicates=copies,
        rows=[dict(row) for row in details.rows],
        stored_image=details.stored_image,
    )


def _identity_of(model: Embedder | None) -> ModelIdentity | None:
    if model is None:
        return None
    return ModelIdentity(
        model.name,
        model.fingerprint,
        model.dimension,
        model.runtime_option,
        model.truncated_to,
    )


def _model_options(reference: dict[str, Any]) -> str:
    """Returns the command-line options that name a model."""
    options = f"--model {shlex.quote(reference['name'])}"
    if "runtime" in reference:
        options += f" --runtime {shlex.quote(str(reference['runtime']))}"
    if "dimensions" in reference:
        options += f" --dimensions {shlex.quote(str(reference['dimensions']))}"
    return options


def _check_encoding(folder: str | os.PathLike, vectors: str | None) -> None:
    """Checks the encoding of the embeddings of an index."""
    if vectors is None:
        return
    check_choice("`vectors`", vectors, ENCODINGS)
    if is_database(folder):
        raise InputError(
            "`vectors` must be used with an index in a folder. Received: a database, "
            "which stores 16 bits per number. Leave `vectors` out."
        )


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


def index_exists(location: str | os.PathLike) -> bool:
    """Returns True if a folder or a database contains an index."""
    return _kind_of_store(location).exists(location)


def _kind_of_store(location: str | os.PathLike) -> Any:
    """Returns the store class for the path of a folder or the address of a database."""
    if not is_database(location):
        return FolderStore
    from align_keras.search.index.postgres_store import PostgresStore

    return PostgresStore

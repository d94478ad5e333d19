"""An index of images, searched by words, images and both."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.columns import INDEX_COLUMNS
from align_keras.search.index_files import (
    damaged,
    run_index_command,
    stored_image_path,
)
from align_keras.search.items import NO_MODEL, ModelIdentity, is_item, split_item
from align_keras.search.known_models import (
    can_be_known,
    embedder_of_index,
    remember_model,
)
from align_keras.search.query import Hit, Query, relevance
from align_keras.search.store import Store
from align_keras.utils.errors import InputError
from align_keras.utils.files import replace_folder
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.search.indexing import Changes

# Cosine of two images from which on one is folded into the other. With align_small_en,
# of 80 JPEGs it folds 97% of copies at 0.7 of the size, 91% at half the size, 76% cut
# by 2% a side, 65% at quality 50; of 962 stamps 24 pairs, mirrored or nearly alike.
SAME_IMAGE = 0.95
# Connection strings of libpq, `host=db password=…`, which would be folders here.
_KEY_AND_VALUE = re.compile(r"(^|\s)(host|hostaddr|dbname|user|password)\s*=")


def is_database(place: str | os.PathLike) -> bool:
    """Whether an index's place is a PostgreSQL database, by its address."""
    if not isinstance(place, str):
        return False
    if _KEY_AND_VALUE.search(place):
        raise InputError(
            "An index in a database must be named by its address. Received: "
            f"{place!r}. Write it as postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    return place.startswith(("postgresql:", "postgres:"))


def default_index() -> str | pathlib.Path:
    """The place of the index that commands take if none is named: `$ALIGN_KERAS_INDEX`,
    else `align_keras/index` in `$XDG_DATA_HOME` (`~/.local/share`).
    """
    named = os.environ.get("ALIGN_KERAS_INDEX")
    if named:
        return named if is_database(named) else pathlib.Path(named)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "index")


class Index:
    """Index of images, searched by words, by an image, and by both.

    `Index.build` embeds the images of folders and tables. `Index.from_embeddings` takes
    embeddings that are already computed. `Index.open` opens what either has written. A
    model of LiteRT towers runs without TensorFlow (Jia et al. 2021, section 7).

    Scores are exact inner products, so that equal images have equal scores.

    Attributes:
        folder: `pathlib.Path`, or a database's address.
        changes: `Changes`, what `build` did, or None.

    Example:

    ```python
    index = Index.build("my_index", ["~/photos"])
    for hit in index.query("a red bicycle", k=3):
        print(hit.score, hit.path)
    index.query(Query(image="a.jpg", plus="snow", where="year >= 2020"))
    ```
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.folder = store.folder
        self._model: Embedder | None = None
        self.changes: Changes | None = None
        self._sample: tuple | None = None

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Embedder | None = None,
        *,
        engine: str = LOCAL,
    ) -> "Index":
        """Makes an index of folders and tables, or brings one up to date.

        Args:
            folder: where it lies or will lie: a folder, or the address of a
                PostgreSQL database with pgvector, `postgresql://user@host/database`.
            sources: folders of images, built corpora, and tables (CSV, TSV, JSONL) of
                images with captions; without any, those that the index has.
            model: as `align_keras.load_model` takes it. By default the model of the
                index, for a new index `"align_small_en"`.
            engine: where tasks run, one of `align_keras.utils.tasks.ENGINES`. The
                machines of a cluster see the images and `folder` by the same paths.

        Returns:
            `Index`.

        Raises:
            InputError: if a source isn't there, another process is writing the index,
                or it is one of another model.
        """
        is_cluster(engine)  # Raises for an unknown one.
        kind = _kind_of_store(folder)
        if model is None and not kind.is_there(folder):
            model = DEFAULT_MODEL
        opened = None if model is None else load_model(model)
        if opened is not None:
            kind.create(folder, _identity(opened))
        index = cls._open(folder, opened)
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
        """Makes an index of embeddings that are already computed.

        Args:
            embeddings: real array (n, d), finite. Rows of unit length have cosines as
                scores.
            ids: sequence of n different str. A hit has its id as `path`, and a
                condition finds it as `path` and `name`.
            captions: sequence of n, each a str or a sequence of str, or None.
            images: sequence of n bytes, or None. Small PNG, JPEG, GIF, BMP or WebP
                files, which the index keeps.
            folder: where to write the index. An index there is replaced once the new
                one is complete. None keeps the index in a temporary folder, which is
                deleted with the returned object.
            model: what made the embeddings, as `align_keras.load_model` takes it, or a
                `ModelIdentity`. It embeds the texts and images of
                queries. Without it, queries are embeddings.

        Returns:
            `Index`, whose images have the ids 1 to n in this order.

        Raises:
            InputError: for lengths that differ, equal ids, embeddings that aren't
                finite, images of another format, and a folder of something else.

        Example:

        >>> index = Index.from_embeddings(np.eye(3), ids=["a", "b", "c"])
        >>> [(hit.path, hit.score) for hit in index.query(np.array([0.0, 0.8, 0.6]), 2)]
        [('b', 0.8), ('c', 0.6)]
        """
        from align_keras.search.embedding_index import (
            checked_embeddings,
            write_embedding_index,
        )

        embeddings = checked_embeddings(embeddings)
        opened = None
        if not isinstance(model, ModelIdentity | None):
            opened = load_model(model)
        identity = model if isinstance(model, ModelIdentity) else _identity(opened)
        if identity is None:
            identity = ModelIdentity(NO_MODEL, NO_MODEL, embeddings.shape[1])
        if identity.dimension != embeddings.shape[1]:
            raise InputError(
                f"`embeddings` must have the model's dimension, {identity.dimension}. "
                f"Received: {embeddings.shape[1]}. Pass embeddings of this model."
            )
        if folder is not None:
            write_embedding_index(folder, embeddings, ids, captions, images, identity)
            return cls.open(folder, opened)
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
        """Opens an index, of which vectors are read as they are needed.

        Args:
            folder: what `build` or `from_embeddings` wrote; by default
                `default_index()`.
            model: as `build` takes it; by default the index's, opened when needed.

        Raises:
            InputError: if there is no index, it is damaged, or of another model.
        """
        index = cls._open(default_index() if folder is None else folder, model)
        index.store.check_whole()
        return index

    @classmethod
    def _open(
        cls, folder: str | os.PathLike, model: str | os.PathLike | Embedder | None
    ) -> "Index":
        """As `open`, also of an index that `add` must complete."""
        index = cls(_kind_of_store(folder)(folder))
        if model is not None:
            index._model = index._checked(load_model(model))
            remember_model(index._model)
        return index

    def __len__(self) -> int:
        return len(self.store)

    @property
    def dimension(self) -> int:
        """Width of the embeddings."""
        return self.store.dimension

    @property
    def model(self) -> Embedder:
        """The model of the index, opened when it is first asked for."""
        if self._model is None:
            reference = self.store.header["model"]
            name = reference["name"]
            if name == NO_MODEL:
                raise InputError(
                    "`query` must be an embedding, since the index "
                    f"{self.folder} names no model. Make it by "
                    "`Index.from_embeddings(…, model=…)` to search it by words."
                )
            try:
                opened = embedder_of_index(reference, self.folder)
            except InputError as error:
                raise InputError(
                    f"the index {self.folder} needs its model {name} ({error}); name "
                    "where it lies now with --model."
                ) from None
            if opened is None:
                frequency = "once" if can_be_known(name) else "to each command"
                raise InputError(
                    f"the index {self.folder} names the model {name!r:.200}, which you "
                    "have not named yourself, and opening a model runs it. If you "
                    f"trust it, add `{_model_options(reference)}` {frequency}."
                )
            self._model = self._checked(opened)
        return self._model

    def _checked(self, model: Embedder) -> Embedder:
        made_with = self.store.header["model"]
        is_same = model.fingerprint == made_with["fingerprint"]
        if is_same and model.dimension == self.store.dimension:
            return model
        if self.store.has_items:
            command = run_index_command(pathlib.Path(self.folder))
            writer = f"`{command}`" if command else "`Index.from_embeddings`"
            raise InputError(
                f"The index {self.folder} must be searched by the model that made its "
                f"embeddings, {made_with['name']} ({made_with['fingerprint']}). "
                f"Received: {model.name} ({model.fingerprint}). Write the index again "
                f"by {writer}, or name the other model."
            )
        sources = [shlex.quote(os.fsdecode(root)) for root in self.store.sources()]
        command = " ".join(["align-keras index", *sources])
        raise InputError(
            f"the index {self.folder} must be searched by the model that it was made "
            f"with, {made_with['name']} ({made_with['fingerprint']}). Received: "
            f"{model.name} ({model.fingerprint}). Rebuild the index by `{command} --to "
            f"{shlex.quote(str(self.folder))} {_model_options(model.reference())} "
            "--rebuild`."
        )

    def add(
        self, sources: Sequence[str | os.PathLike] = (), engine: str = LOCAL
    ) -> "Changes":
        """Brings the index up to date with folders and tables.

        What is new or has changed is embedded, what is gone is dropped, and a file that
        is there under another name is known by its content.

        Args:
            sources: as `build` takes them; without any, those that the index has.
            engine: as `build` takes it.

        Returns:
            `Changes`, what was done.

        Raises:
            InputError: if a source isn't there, or another process is writing.
        """
        # Decoders are imported only here, for they take a query's time.
        from align_keras.search.indexing import update

        if is_cluster(engine) and is_database(self.folder):
            raise InputError(
                f"engine must be local for a database, received {engine}; run the same "
                "command on several machines, which share the images out."
            )
        model = self.model
        with self.store.writing() as store:
            changes = update(store, model, sources, engine)
        # Who has it open goes on with these rows when another takes its place.
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
    ) -> "Index":
        """Embeds everything anew, for another model, beside the old index.

        That one is searched until the new one takes its place; what a killed rebuild
        has embedded is kept for the next.

        Args:
            folder: where the old index lies.
            sources: as `build` takes them; by default those of the old index.
            model: as `build` takes it; by default the old index's.
            engine: as `build` takes it.

        Returns:
            `Index`, the new one.

        Raises:
            InputError: as `build`, and for a database.
        """
        if is_database(folder):
            raise InputError(
                "`rebuild` must be of an index in a folder, received a database; make "
                "another database for the other model."
            )
        folder = pathlib.Path(folder)
        old = cls._open(folder, None)
        if old.store.has_items:
            raise InputError(
                "`rebuild` must be of an index of folders and tables. Received: "
                f"{folder}, which was made from embeddings. Make it again by "
                "`Index.from_embeddings` or by the command of its run."
            )
        sources = list(sources) or [os.fsdecode(root) for root in old.store.sources()]
        opened = old.model if model is None else load_model(model)
        beside = folder.with_name(f".{folder.name}.rebuild")
        if Store.is_there(beside):
            begun = cls.open(beside).store.header["model"]["fingerprint"]
            if begun != opened.fingerprint:
                shutil.rmtree(beside)
        changes = cls.build(beside, sources, opened, engine=engine).changes
        with Store.locked(folder):
            replace_folder(folder, beside)
        index = cls.open(folder, opened)
        index.changes = changes
        return index

    def remove(self, paths: Iterable[str | os.PathLike]) -> int:
        """Drops images, or all in folders or tables, which aren't looked through any
        more.

        Returns:
            int, how many images were dropped; the files stay.
        """
        from align_keras.search.indexing import remove

        with self.store.writing() as store:
            return remove(store, paths)

    def check(self) -> int:
        """Compares every embedding with the checksum that was written with it.

        Returns:
            int, how many embeddings were compared; 0 for a database, which has
            checksums of its own.

        Raises:
            InputError: if anything of the index is damaged, with the file and the
                command that makes it again.
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
        """Finds images.

        Args:
            query: `Query`; str, words to look for; or float array (d,), an embedding.
            k: int >= 1, images to find, in place of the query's.
            where: str, a condition on columns, in place of the query's.
            duplicates: bool, whether each near-duplicate is a hit of its own, in place
                of the query's.

        Returns:
            list of `Hit`, the best first: `k` of them if so many images fulfill
            `where`. Equal scores come in the order in which images were indexed. A
            query of a condition alone lists the images that were indexed last.

        Raises:
            InputError: for another dimension, `k` < 1, or a condition that isn't one.
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
        stored = None
        if isinstance(query.image, int | np.integer):
            stored = self.embedding(int(query.image))
        elif query.image is not None:
            # Decoders are imported only here, since importing them takes as long as a
            # query by words.
            from align_keras.search.image_files import read_query_image

            pixels = read_query_image(query.image, self.model.resize_to)
            [stored] = self.model.encode_resized([pixels])
        return query.encode(self.model, stored)

    def embedding(self, id: int) -> np.ndarray:
        """Returns the embedding of an image of the index, float32 (d,)."""
        return self.store.with_stable_rows(
            lambda: self.store.vector(self.store.image(id)["row"])
        )

    def search(self, embedding: np.ndarray, query: Query) -> list[Hit]:
        """Finds images for an embedding, float32 (d,), by what else `query` says."""
        embedding = self._checked_embedding(embedding)
        condition = self._condition(query.where)

        if query.duplicates is None:
            query = dataclasses.replace(query, duplicates=self.store.has_items)

        def ranked_images() -> list[tuple[float, dict[str, Any], list[Any]]]:
            ranked = self.store.ranked(embedding, *condition, query)
            images = without_copies(ranked, query)
            self.store.check_rows([image["row"] for _, image, _ in images])
            return images

        found = self.store.with_stable_rows(ranked_images)
        scores = np.array([score for score, _, _ in found])
        sample, count = self._sampled()
        marks = relevance(scores, sample @ embedding, count)
        rows = self.store.rows_of([image["id"] for _, image, _ in found])
        return [
            self._hit(rank, score, image, mark, copies, rows.get(image["id"], []))
            for rank, ((score, image, copies), mark) in enumerate(
                zip(found, marks, strict=True), 1
            )
        ]

    def _sampled(self) -> tuple[np.ndarray, int]:
        """Some embeddings from all over the index, and the number of its images."""
        version = self.store.version
        if self._sample is None or self._sample[0] != version:
            sample = self.store.sample()
            if not len(sample):
                sample = np.zeros((1, self.store.dimension), np.float32)
            self._sample = version, sample, len(self)
        _, sample, count = self._sample
        return sample, count

    def latest(self, where: str | None = None, k: int = 10) -> list[Hit]:
        """Lists the images that were indexed last, without a query.

        Args:
            where: str, a condition on columns, or None for all images.
            k: int >= 1, images to list.

        Returns:
            list of `Hit` without score and relevance, the latest first.

        Raises:
            InputError: for a condition that isn't one.
        """
        images = self.store.latest(*self._condition(where), k)
        rows = self.store.rows_of([image["id"] for image in images])
        return [
            self._hit(rank, None, image, None, [], rows.get(image["id"], []))
            for rank, image in enumerate(images, 1)
        ]

    def _hit(
        self,
        rank: int,
        score: float | None,
        image: dict[str, Any],
        mark: str | None,
        folded: list[dict[str, Any]],
        rows: list[dict[str, Any]],
    ) -> Hit:
        columns = {
            name: image[name]
            for name in INDEX_COLUMNS
            if name not in ("path", "captions") and image[name] is not None
        }
        for row in reversed(rows):  # The first row has the last word.
            columns |= row
        stored_image = self.stored_image(image)
        return Hit(
            rank=rank,
            score=None if score is None else round(score, 6),
            id=image["id"],
            path=_path(image),
            relevance=mark,
            captions=self._captions(image),
            columns=columns,
            duplicates=[_path(copy) for copy in folded],
            rows=rows if len(rows) > 1 else [],
            stored_image=None if stored_image is None else str(stored_image),
        )

    def stored_image(self, image: dict[str, Any]) -> pathlib.Path | None:
        """Returns the path of the copy of an image in the index, or None.

        Args:
            image: columns of the image, as `store.image` returns them.
        """
        if not is_item(image["file"]):
            return None
        _, name = split_item(image["file"])
        return stored_image_path(self.folder, name) if name else None

    def _captions(self, image: dict[str, Any]) -> list[str]:
        try:
            captions = json.loads(image["captions"] or "[]")
        except (TypeError, ValueError):
            captions = None
        is_list = isinstance(captions, list)
        if not is_list or not all(isinstance(one, str) for one in captions):
            raise damaged(self.folder, f"the captions of image {image['id']}")
        return captions

    def _checked_embedding(self, embedding: np.ndarray) -> np.ndarray:
        embedding = np.ascontiguousarray(embedding, np.float32)
        if embedding.shape != (self.store.dimension,):
            raise InputError(
                f"`query` must have shape ({self.store.dimension},) for this index, "
                f"received {embedding.shape}; embed it with the index's model."
            )
        if not np.isfinite(embedding).all():
            raise InputError(
                "`query` must be finite, received NaN or infinity; embed it again."
            )
        return embedding

    def _condition(self, where: str | None) -> tuple[str, list[Any]]:
        """SQL and parameters of a condition, or of none."""
        return self.store.condition(where)


def without_copies(
    ranked: Iterable[list[tuple[float, dict, np.ndarray]]], query: Query
) -> list[tuple[float, dict, list[dict]]]:
    """The `k` best of (score, image, vector), each with the copies folded into it."""
    found: list[tuple[float, dict, list[dict]]] = []
    kept = np.zeros((64, 0), np.float32)
    for block in ranked:
        for score, image, vector in block:
            if not kept.shape[1]:
                kept = np.zeros((64, len(vector)), np.float32)
            near = kept[: len(found)] @ vector >= SAME_IMAGE
            if near.any() and not query.duplicates:
                found[int(np.argmax(near))][2].append(image)
            elif len(found) < query.k:
                if len(found) == len(kept):
                    kept = np.concatenate([kept, np.zeros_like(kept)])
                kept[len(found)] = vector
                found.append((score, image, []))
        if len(found) >= query.k:
            break
    return found


def _path(image: dict[str, Any]) -> str:
    """Returns the path of an image's file, or its id."""
    file = image["file"]
    return split_item(file)[0] if is_item(file) else os.fsdecode(file)


def _identity(model: Embedder | None) -> ModelIdentity | None:
    if model is None:
        return None
    return ModelIdentity(
        model.name, model.fingerprint, model.dimension, model.runtime_option
    )


def _model_options(reference: dict[str, str]) -> str:
    """Returns the command-line options that name a model."""
    options = f"--model {shlex.quote(reference['name'])}"
    if "runtime" in reference:
        options += f" --runtime {shlex.quote(str(reference['runtime']))}"
    return options


def _kind_of_store(place: str | os.PathLike) -> Any:
    if not is_database(place):
        return Store
    from align_keras.search.postgres import PostgresStore

    return PostgresStore

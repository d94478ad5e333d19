"""An index of folders and tables of images, searched by words, images and both."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.search.query import Hit, Query, relevance
from align_keras.search.store import Store
from align_keras.search.towers import DEFAULT_MODEL, Model, open_model
from align_keras.utils.errors import InputError
from align_keras.utils.tasks import LOCAL, is_cluster

if TYPE_CHECKING:
    from align_keras.search.indexing import Changes

# Cosine of two images from which on one is folded into the other. With align_small_en,
# of 80 JPEGs it folds 97% of copies at 0.7 of the size, 91% at half the size, 76% cut
# by 2% a side, 65% at quality 50; of 962 stamps 24 pairs, mirrored or nearly alike.
SAME_IMAGE = 0.95
# Rows whose scores tell what is high for a query.
_SAMPLE = 4096
# Rows scored at once: 100 MB of an embedding of 384 numbers.
_ROW_BLOCK = 65_536
_HIDDEN_COLUMNS = ("id", "root", "file", "row", "mtime_ns", "content", "captions")


def is_database(place: str | os.PathLike) -> bool:
    """Whether an index's place is a PostgreSQL database, by its address."""
    return isinstance(place, str) and place.startswith(("postgresql:", "postgres:"))


def default_index() -> str | pathlib.Path:
    """The place of the index that commands take if none is named.

    `$ALIGN_KERAS_INDEX`, else `align_keras/index` in `$XDG_DATA_HOME`, which is
    `~/.local/share` if it isn't set.
    """
    named = os.environ.get("ALIGN_KERAS_INDEX")
    if named:
        return named if is_database(named) else pathlib.Path(named)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return pathlib.Path(data, "align_keras", "index")


class Index:
    """Images of folders and tables, found by words, by an image, and by both.

    Make one with `Index.build`, open one with `Index.open`. Without TensorFlow where
    the model is a folder of LiteRT towers.

    Attributes:
        folder: `pathlib.Path`.
        store: `Store`, what it knows of the images.
        changes: `Changes`, what `build` did, or None.

    References:
        Jia et al. 2021, section 7 (text and image queries).

    Example:

    ```python
    index = Index.build("my_index", ["~/photos"])
    for hit in index.query("a red bicycle", k=3):
        print(hit.score, hit.path)
    index.query(Query(image="a.jpg", plus="snow", where="year >= 2020"))
    ```
    """

    _placeholder = "?"  # Of a parameter in the store's SQL.

    def __init__(self, store: Store, model: Model | None = None):
        self.store = store
        self.folder = store.folder
        self._model = model
        self.changes: Changes | None = None
        self._sample: tuple | None = None
        self._opened_approximate: tuple | None = None
        self._count: tuple | None = None

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Model | None = None,
        *,
        engine: str = LOCAL,
    ) -> "Index":
        """Makes an index of folders and tables, or brings one up to date.

        Args:
            folder: where it lies or will lie: a folder, or the address of a
                PostgreSQL database with pgvector, `postgresql://user@host/database`.
            sources: folders of images, built corpora, and tables (CSV, TSV, JSONL) of
                images with captions; without any, those that the index has.
            model: as `open_model` takes it, or what that returned; by default the
                index's, of a new one `"align_small_en"`.
            engine: what embeds, one of `align_keras.utils.tasks.ENGINES`; a cluster's
                machines see the images and `folder` by the same paths.

        Returns:
            `Index`.

        Raises:
            InputError: if a source isn't there, another process is writing the index,
                or it is one of another model.
        """
        if is_database(folder):
            return PostgresIndex.build(folder, sources, model, engine=engine)
        is_cluster(engine)  # Raises for an unknown one.
        folder = pathlib.Path(folder)
        if model is None and not Store.is_there(folder):
            model = DEFAULT_MODEL
        opened = None if model is None else _opened(model)
        if opened is not None:
            with Store.locked(folder):
                if not Store.is_there(folder):
                    told = (opened.name, opened.fingerprint, opened.dimension)
                    Store.create(folder, *told)
        index = cls.open(folder, opened)
        index.changes = index.add(sources, engine)
        return index

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike | None = None,
        model: str | os.PathLike | Model | None = None,
    ) -> "Index":
        """Opens an index, of which vectors are read as they are needed.

        Args:
            folder: what `build` wrote; by default `default_index()`.
            model: as `open_model` takes it, or what that returned; by default what the
                index was made with, opened when it is needed.

        Raises:
            InputError: if there is no index, it is damaged, or of another model.
        """
        folder = default_index() if folder is None else folder
        if is_database(folder):
            index: Index = PostgresIndex.connect(str(folder))
        else:
            index = cls(Store(folder))
        if model is not None:
            index._model = index._checked(_opened(model))
        return index

    def __len__(self):
        return len(self.store)

    @property
    def model(self) -> Model:
        """The model of the index, opened when it is first asked for."""
        if self._model is None:
            name = self.store.header["model"]["name"]
            try:
                opened = open_model(name)
            except InputError as error:
                raise InputError(
                    f"the index {self.folder} needs its model {name} ({error}); name "
                    "where it lies now with --model."
                ) from None
            self._model = self._checked(opened)
        return self._model

    def _checked(self, model):
        made_with = self.store.header["model"]
        if model.fingerprint == made_with["fingerprint"]:
            return model
        sources = [shlex.quote(os.fsdecode(root)) for root in self.store.roots()]
        command = " ".join(["align-keras index", *sources])
        raise InputError(
            f"the index {self.folder} must be searched by the model that it was made "
            f"with, {made_with['name']} ({made_with['fingerprint']}), received "
            f"{model.name} ({model.fingerprint}); rebuild it by `{command} --to "
            f"{shlex.quote(str(self.folder))} --model {shlex.quote(model.name)} "
            "--rebuild`."
        )

    def add(
        self, sources: Sequence[str | os.PathLike] = (), engine: str = LOCAL
    ) -> "Changes":
        """Brings the index up to date with folders and tables.

        What is new or has changed is embedded, what is gone is dropped, and a file that
        is there under another name is known by its content.

        Args:
            sources: folders of images and tables of captioned images; without any,
                those that the index has.
            engine: as `build` takes it.

        Returns:
            `Changes`, what was done.

        Raises:
            InputError: if a source isn't there, or another process is writing.
        """
        # Decoders are imported only here, for they take a query's time.
        from align_keras.search.approximate import bring_up_to_date
        from align_keras.search.indexing import update

        with Store.locked(self.folder):
            with contextlib.closing(Store(self.folder, writable=True)) as store:
                changes = update(store, self.model, sources, engine)
                bring_up_to_date(self.folder, store.vectors_file, store.vectors())
                return changes

    @classmethod
    def rebuild(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Model | None = None,
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
        old = cls.open(folder)
        sources = list(sources) or [os.fsdecode(root) for root in old.store.roots()]
        opened = old.model if model is None else _opened(model)
        beside = folder.with_name(f".{folder.name}.rebuild")
        if Store.is_there(beside):
            begun = cls.open(beside).store.header["model"]["fingerprint"]
            if begun != opened.fingerprint:
                shutil.rmtree(beside)
        changes = cls.build(beside, sources, opened, engine=engine).changes
        replaced = folder.with_name(f".{folder.name}.replaced")
        with Store.locked(folder):
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(folder, replaced)
            os.replace(beside, folder)
        shutil.rmtree(replaced)
        index = cls.open(folder, opened)
        index.changes = changes
        return index

    def remove(self, paths: Iterable[str | os.PathLike]) -> int:
        """Drops images, or all in folders or tables that were indexed.

        The files stay; a folder that was indexed isn't looked through any more.

        Returns:
            int, how many images were dropped.
        """
        from align_keras.search.indexing import remove

        with Store.locked(self.folder):
            with contextlib.closing(Store(self.folder, writable=True)) as store:
                return remove(store, paths)

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
            duplicates: bool, whether near-duplicates count, in place of the query's.

        Returns:
            list of `Hit`, the best first: `k` of them if so many images fulfill
            `where`. Equal scores come in the order in which images were indexed.

        Raises:
            InputError: for another dimension, `k` < 1, or a condition that isn't one.
        """
        embedding = query if isinstance(query, np.ndarray) else None
        asked = query if isinstance(query, Query) else Query()
        if isinstance(query, str):
            asked = Query(query)
        given: dict[str, Any] = {"k": k, "where": where, "duplicates": duplicates}
        asked = dataclasses.replace(
            asked, **{name: value for name, value in given.items() if value is not None}
        )
        if embedding is None:
            embedding = self.encode(asked)
        return self.search(embedding, asked)

    def encode(self, query: Query) -> np.ndarray:
        """Returns a query's embedding, float32 (d,), of unit length."""
        stored = None
        if isinstance(query.image, int | np.integer):
            stored = self.embedding(int(query.image))
        return query.encode(self.model, stored)

    def embedding(self, id: int) -> np.ndarray:
        """Returns the embedding of an image of the index, float32 (d,)."""
        image = self.store.image(id)
        return self.store.vector(image["row"])

    def search(self, embedding: np.ndarray, query: Query) -> list[Hit]:
        """Finds images for an embedding, float32 (d,); of `query`, all but what was
        embedded counts.
        """
        embedding = self._checked_embedding(embedding)
        found, others = self._found(embedding, query)
        scores = np.array([score for score, _, _ in found])
        version = self.store.version
        if self._count is None or self._count[0] != version:
            self._count = version, len(self)
        marks = relevance(scores, others, self._count[1])
        return [
            _hit(rank, score, image, mark, copies)
            for rank, ((score, image, copies), mark) in enumerate(
                zip(found, marks, strict=True), 1
            )
        ]

    def _found(self, embedding, query):
        """What was found, as `without_copies` gives it, and scores of other images."""
        while True:
            file = self.store.vectors_file
            vectors = self.store.vectors()
            if not len(vectors):
                return [], np.zeros(1, np.float32)
            rows = self._allowed(query.where)
            ranked = self._ranked(embedding, vectors, rows, query)
            found = without_copies(ranked, query)
            # Unless the rows were written anew meanwhile, and are others now.
            if self.store.vectors_file == file:
                return found, self._sample_of(file, vectors) @ embedding

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
        condition, parameters = self._condition(where)
        images = self.store.latest(condition, parameters, k)
        return [
            _hit(rank, None, image, None, []) for rank, image in enumerate(images, 1)
        ]

    def _checked_embedding(self, embedding):
        embedding = np.ascontiguousarray(embedding, np.float32)
        if embedding.shape != (self.store.dimension,):
            raise InputError(
                f"`query` must have shape ({self.store.dimension},) for this index, "
                f"received {embedding.shape}; embed it with the index's model."
            )
        if not np.isfinite(embedding).all():
            raise InputError("`query` must be finite, received NaN or infinity.")
        return embedding

    def _allowed(self, where):
        """Rows that fulfill a condition, sorted, or None for all."""
        if where is None or not where.strip():
            return None
        return self.store.rows(*self._condition(where))

    def _condition(self, where):
        """SQL and parameters of a condition, or of none."""
        if where is None or not where.strip():
            return "1 = 1", []
        from align_keras.search.where import parse_where

        return parse_where(where, self.store.columns, self._placeholder)

    def _ranked(self, embedding, vectors, rows, query):
        """Yields lists of (score, image, vector), the best first."""
        for best, scores in self._blocks(embedding, vectors, rows, query):
            images = self.store.of_rows(best)
            yield [  # Rows without an image are left out.
                (float(score), images[row], vectors[row])
                for row, score in zip(best, scores, strict=True)
                if row in images
            ]

    def _blocks(self, embedding, vectors, rows, query):
        """Yields rows and their scores from the highest on, as long as is asked."""
        size = 4 * query.k + 64
        approximate = self._approximate(query, len(vectors)) if rows is None else None
        seen = np.zeros(0, np.int64)
        if approximate is not None:
            chosen = np.sort(approximate.find(embedding, size, vectors))
            scores = _scores(vectors, embedding, chosen)
            best = np.lexsort((chosen, -scores))[:size]
            seen = chosen[best]
            yield seen, scores[best]
        # Of too many copies, or rows without images, the rest is scanned.
        scores = _scores(vectors, embedding, rows)
        for block in _by_rank(scores, size):
            best = block if rows is None else rows[block]
            new = ~np.isin(best, seen)
            yield best[new], scores[block[new]]

    def _approximate(self, query, count):
        """The approximate index, or None where the exact scan is as good."""
        from align_keras.search import approximate

        wanted = query.approximate
        if wanted is False or (wanted is None and count < approximate.LEAST_ROWS):
            return None
        file = self.store.vectors_file
        if self._opened_approximate is None or self._opened_approximate[0] != file:
            found = approximate.Approximate.open(
                self.folder, file, self.store.dimension
            )
            self._opened_approximate = file, found
        found = self._opened_approximate[1]
        return approximate.check_there(found, count) if wanted else found

    def _sample_of(self, file, vectors):
        """Some thousand vectors from all over the index."""
        key = file, len(vectors)
        if self._sample is None or self._sample[0] != key:
            # Not at random, whose import takes a twentieth of a search.
            step = max(1, len(vectors) // _SAMPLE)
            self._sample = key, np.array(vectors[::step])
        return self._sample[1]


def without_copies(
    ranked: Iterable[list[tuple[float, dict, np.ndarray]]], query: Query
) -> list[tuple[float, dict, list[dict]]]:
    """The `k` best, each with the copies in its list that are folded into it.

    `ranked` gives lists of (score, image, vector), the best first.
    """
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


def _opened(model):
    return open_model(model) if isinstance(model, str | os.PathLike) else model


def _scores(vectors, embedding, rows):
    """Scores of all rows, or of some."""
    count = len(vectors) if rows is None else len(rows)
    scores = np.empty(count, np.float32)
    for start in range(0, count, _ROW_BLOCK):
        stop = start + _ROW_BLOCK
        block = vectors[start:stop] if rows is None else vectors[rows[start:stop]]
        np.matmul(block, embedding, out=scores[start:stop])
    return scores


def _by_rank(scores, size):
    """Yields positions from the highest score on, first `size`, then ever more."""
    done = 0
    while done < len(scores):
        stop = min(done + size, len(scores))
        cut = np.partition(scores, len(scores) - stop)[len(scores) - stop]
        chosen = np.flatnonzero(scores >= cut)
        best = chosen[np.lexsort((chosen, -scores[chosen]))]
        yield best[done:]
        done, size = len(best), 4 * size


def _hit(rank, score, image, mark, folded):
    columns = {
        name: value
        for name, value in image.items()
        if name not in _HIDDEN_COLUMNS and name != "path" and value is not None
    }
    return Hit(
        rank=rank,
        score=None if score is None else round(score, 6),
        id=image["id"],
        path=os.fsdecode(image["file"]),
        relevance=mark,
        captions=json.loads(image["captions"] or "[]"),
        columns=columns,
        duplicates=[os.fsdecode(copy["file"]) for copy in folded],
    )


class PostgresIndex(Index):
    """`Index` in a PostgreSQL database; `Index.open` and `build` take its address."""

    store: Any
    _placeholder = "%s"

    @classmethod
    def connect(cls, address: str) -> "PostgresIndex":
        """Opens the index of a database."""
        from align_keras.search.postgres import PostgresStore

        return cls(PostgresStore(address))  # type: ignore[arg-type]

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        sources: Sequence[str | os.PathLike] = (),
        model: str | os.PathLike | Model | None = None,
        *,
        engine: str = LOCAL,
    ) -> "PostgresIndex":
        """As `Index.build`; `folder` is the database's address."""
        from align_keras.search.postgres import PostgresStore

        address = str(folder)
        if model is None and not PostgresStore.is_there(address):
            model = DEFAULT_MODEL
        if isinstance(model, str | os.PathLike):
            model = open_model(model)
        if model is not None:
            PostgresStore.create(address, model)
        index = cls.connect(address)
        if model is not None:
            index._model = index._checked(model)
        index.changes = index.add(sources, engine)
        return index

    def add(
        self, sources: Sequence[str | os.PathLike] = (), engine: str = LOCAL
    ) -> "Changes":
        from align_keras.search.indexing import update

        if is_cluster(engine):
            raise InputError(
                f"engine must be local for a database, received {engine}; run the same "
                "command on several machines, which share the images out."
            )
        model = self.model
        writer = type(self.store)(self.store.address)
        with contextlib.closing(writer) as store:
            return update(store, model, sources)

    def remove(self, paths: Iterable[str | os.PathLike]) -> int:
        from align_keras.search.indexing import remove

        return remove(self.store, paths)

    def _found(self, embedding, query):
        condition, parameters = self._condition(query.where)
        ranked = self._nearest(embedding, condition, parameters, query)
        found = without_copies(ranked, query)
        return found, self._sampled() @ embedding

    def _nearest(self, embedding, condition, parameters, query: Query):
        """Yields lists of (score, image, vector), first few, then ever more."""
        done, count = 0, 4 * query.k + 64
        while True:
            found = self.store.nearest(embedding, condition, parameters, count)
            yield found[done:]
            if len(found) < count:
                return
            done, count = len(found), 4 * count

    def _sampled(self):
        version = self.store.version
        if self._sample is None or self._sample[0] != version:
            self._sample = version, self.store.sample()
        sample = self._sample[1]
        return sample if len(sample) else np.zeros((1, self.store.dimension), "f4")

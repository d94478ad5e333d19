"""Table of the scores of a corpus, and selections of pairs by conditions on them."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.parquet_tables import arrow, open_parquet, read_batches
from align_keras.corpus.shard_folder import SHARDS, index_digest
from align_keras.utils.condition_columns import (
    NUMBER,
    TEXT,
    Column,
    Condition,
    fold_case,
)
from align_keras.utils.errors import InputError

SCORES = "scores.parquet"
# Key of the metadata in the schema of the Parquet file.
_METADATA_KEY = b"align_keras_scores"
_EXAMPLE = "similarity > 0.2 and detected_language = 'en'"


@dataclasses.dataclass(frozen=True)
class ShardSelection:
    """Selected images and captions of a shard.

    Attributes:
        images: int64 array (n,), positions of the selected images in the shard, in
            ascending order.
        counts: int64 array (n,), number of selected captions of each of these images.
        captions: int32 array (sum of counts,), numbers of the selected captions within
            their images, image by image in ascending order.
        all_counts: int64 array (n,), number of captions of each of these images in the
            shard.

    Example:

    >>> images, counts = np.array([0, 2]), np.array([1, 2])
    >>> selection = ShardSelection(images, counts, np.array([1, 0, 2]), counts + 1)
    >>> selection.captions_of(1)
    array([0, 2])
    """

    images: np.ndarray
    counts: np.ndarray
    captions: np.ndarray
    all_counts: np.ndarray

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """End of the captions of each image in `captions`, int64 (n,)."""
        return np.cumsum(self.counts)

    def captions_of(self, image: int) -> np.ndarray:
        """Returns the numbers of the selected captions of an image.

        Args:
            image: position of the image in `images`.

        Returns:
            int32 array.
        """
        end = self.ends[image]
        return self.captions[end - self.counts[image] : end]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Images and captions of a corpus that a condition keeps.

    Attributes:
        where: the condition.
        shards: dict from the file name of each shard to its `ShardSelection`.
        num_images: number of images in the corpus.
        num_captions: number of captions in the corpus.

    Example:

    ```python
    table = align_keras.corpus.scores.ScoreTable("corpus/scores.parquet")
    selection = table.select("similarity > 0.1")
    isinstance(selection, Selection)  # True
    selection.kept_images <= selection.num_images  # True
    ```
    """

    where: str
    shards: dict[str, ShardSelection]
    num_images: int
    num_captions: int

    @property
    def kept_images(self) -> int:
        """Number of images with at least one selected caption."""
        return sum(len(shard.images) for shard in self.shards.values())

    @property
    def kept_captions(self) -> int:
        """Number of selected captions."""
        return sum(len(shard.captions) for shard in self.shards.values())


class ScoreTable:
    """Scores of the pairs of a corpus, one row for each caption of each image.

    The rows have the order of the shards.

    Args:
        path: path of the file `scores.parquet` that `align-keras corpus score` wrote.

    Attributes:
        columns: dict from the name of each column to `"number"` or `"text"`.
        metadata: dict with `shards` (SHA-256 of the `index.json` of the shards), `key`
            (name of the stage) and `model` (str or None).

    Raises:
        InputError: if the file is missing.

    Example:

    ```python
    table = ScoreTable("corpus/scores.parquet")
    table.columns["similarity"]  # 'number'
    table.select("similarity > -1").kept_images  # 2
    ```
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        if not self.path.exists():
            raise InputError(
                "A selection of pairs needs the scores of the corpus. Received: "
                f"{self.path}, which does not exist. Run `align-keras corpus score`."
            )
        with open_parquet(os.fspath(self.path)) as file:
            schema = file.schema_arrow
        self.metadata: dict[str, Any] = json.loads(schema.metadata[_METADATA_KEY])
        self.columns = {field.name: _kind(field.type) for field in schema}

    def check_shards(self, folder: str | os.PathLike) -> None:
        """Raises InputError if the scores belong to other shards.

        Args:
            folder: folder of the shards.
        """
        if index_digest(folder) != self.metadata["shards"]:
            raise InputError(
                f"The scores must belong to the shards of the corpus. Received: "
                f"{self.path}, which was written for other shards than those in "
                f"{os.fspath(folder)}. Run `align-keras corpus score` again."
            )

    def select(self, where: str) -> Selection:
        """Selects the captions for which a condition holds.

        Args:
            where: condition on the columns as in `align-keras search --where`, such as
                `"similarity > 0.2 and detected_language = 'en'"`.

        Raises:
            InputError: if the condition is invalid or has an unknown column.
        """
        condition = self.read_condition(where)
        # For each shard, the number and the mask of each caption in blocks of rows.
        numbers: dict[str, list[np.ndarray]] = {}
        masks: dict[str, list[np.ndarray]] = {}
        for batch, mask in self._masks(condition):
            shards = batch.column("shard").to_numpy(zero_copy_only=False)
            caption_numbers = batch.column("caption_number").to_numpy()
            for shard in dict.fromkeys(shards.tolist()):
                is_in_shard = shards == shard
                numbers.setdefault(shard, []).append(caption_numbers[is_in_shard])
                masks.setdefault(shard, []).append(mask[is_in_shard])
        shard_selections = {}
        num_images = 0
        num_captions = 0
        for shard, parts in numbers.items():
            caption_numbers = np.concatenate(parts)
            selection = _select_in_shard(
                caption_numbers, np.concatenate(masks.pop(shard))
            )
            shard_selections[shard] = selection
            num_images += int(np.count_nonzero(caption_numbers == 0))
            num_captions += len(caption_numbers)
        return Selection(where, shard_selections, num_images, num_captions)

    def examples(self, where: str, count: int) -> tuple[list[dict], list[dict]]:
        """Returns some pairs that a condition keeps, and some that it drops.

        The examples are those with the lowest values of the column `draw`, which are
        random pairs.

        Args:
            where: condition as in `select`.
            count: number of examples of each kind.

        Returns:
            tuple of two lists of dict. A dict has the columns `id` and `caption` and
            the columns of the condition.
        """
        condition = self.read_condition(where)
        kept_rows: list[tuple[float, dict]] = []
        dropped_rows: list[tuple[float, dict]] = []
        names = sorted({"id", "caption", *condition.columns})
        for batch, mask in self._masks(condition, ["id", "caption", "draw"]):
            draws = batch.column("draw").to_numpy()
            for rows, is_wanted in ((kept_rows, mask), (dropped_rows, ~mask)):
                positions = np.flatnonzero(is_wanted)
                first = positions[np.argsort(draws[positions], kind="stable")[:count]]
                values = batch.select(names).take(first).to_pylist()
                rows += zip(draws[first].tolist(), values, strict=True)
                rows.sort(key=lambda row: row[0])
                del rows[count:]
        return [row for _, row in kept_rows], [row for _, row in dropped_rows]

    def quantiles(self, probabilities: Sequence[float]) -> dict[str, list[float]]:
        """Returns approximate quantiles of each column of scores.

        Args:
            probabilities: sequence of float in [0, 1].

        Returns:
            dict from the name of a column of numbers to its quantiles. The columns
            `caption_number` and `draw` are left out.
        """
        pa = arrow()
        import pyarrow.compute

        names = [
            name
            for name, kind in self.columns.items()
            if kind == NUMBER and name not in ("caption_number", "draw")
        ]
        quantiles = {}
        for name in names:
            batches = list(read_batches(self.path, [name]))
            column = pa.Table.from_batches(batches).column(name)
            digest = pyarrow.compute.tdigest(column, q=list(probabilities))
            quantiles[name] = digest.to_pylist()
        return quantiles

    def read_condition(self, where: str) -> Condition:
        """Parses a condition on the columns.

        Raises:
            InputError: if the condition is invalid or has an unknown column.
        """
        # Importing the parser takes 0.3 s.
        from align_keras.utils.where import read_condition

        columns = {
            name: Column(f"c{number}", kind, f"c{number}")
            for number, (name, kind) in enumerate(self.columns.items())
        }
        return read_condition(where, columns, _folded, _EXAMPLE)

    def _masks(
        self, condition: Condition, names: Sequence[str] = ()
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields blocks of rows with a mask of the rows for which a condition holds."""
        read_names = ["shard", "caption_number", *names]
        read_names += sorted(condition.columns.difference(read_names))
        sql_names = {
            name: f"c{number}"
            for number, name in enumerate(self.columns)
            if name in condition.columns
        }
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.create_function("fold_case", 1, fold_case, deterministic=True)
            columns = ", ".join(sql_names.values())
            connection.execute(
                f"CREATE TABLE scores (row INTEGER PRIMARY KEY, {columns})"
            )
            for batch in read_batches(self.path, read_names):
                yield batch, _mask(connection, condition, batch, sql_names)


def _mask(
    connection: sqlite3.Connection,
    condition: Condition,
    batch: Any,
    sql_names: Mapping[str, str],
) -> np.ndarray:
    """Returns a bool array with True for the rows for which a condition holds."""
    columns = [batch.column(name).to_pylist() for name in sql_names]
    marks = ", ".join("?" * (len(columns) + 1))
    connection.execute("DELETE FROM scores")
    connection.executemany(
        f"INSERT INTO scores VALUES ({marks})",
        zip(range(batch.num_rows), *columns, strict=True),
    )
    rows = connection.execute(
        f"SELECT row FROM scores WHERE {condition.sql}", condition.parameters
    )
    mask = np.zeros(batch.num_rows, bool)
    mask[[row for (row,) in rows]] = True
    return mask


def _select_in_shard(caption_numbers: np.ndarray, mask: np.ndarray) -> ShardSelection:
    """Returns the selection of a shard."""
    # Each image starts with the caption number 0.
    image_of_caption = np.cumsum(caption_numbers == 0) - 1
    num_images = int(image_of_caption[-1]) + 1
    kept_counts = np.bincount(image_of_caption[mask], minlength=num_images)
    images = np.flatnonzero(kept_counts)
    return ShardSelection(
        images=images,
        counts=kept_counts[images],
        captions=caption_numbers[mask].astype(np.int32),
        all_counts=np.bincount(image_of_caption, minlength=num_images)[images],
    )


def scores_path(shards: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the scores that belong to a folder of shards."""
    parents = pathlib.Path(SHARDS).parts
    folder = pathlib.Path(shards).absolute()
    for _ in parents:
        folder = folder.parent
    return folder / SCORES


def with_metadata(schema: Any, metadata: Mapping[str, Any]) -> Any:
    """Returns the schema of a table of scores with its metadata.

    Args:
        schema: `pyarrow.Schema`.
        metadata: dict with JSON values, the attribute `metadata` of `ScoreTable`.
    """
    return schema.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})


def _kind(data_type: Any) -> str:
    types = arrow().types
    return TEXT if types.is_string(data_type) else NUMBER


def _folded(sql: str, is_ascii: bool) -> str:
    return f"lower({sql})" if is_ascii else f"fold_case({sql})"


def uniform_draw(id: str, caption: str) -> float:
    """Returns a number in [0, 1) that depends only on the arguments.

    Example:

    >>> uniform_draw("7", "a cat") == uniform_draw("7", "a cat")
    True
    """
    text = f"0\0{id}\0{caption}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    # The 53 highest bits are a float64 without rounding.
    return (int.from_bytes(digest, "big") >> 11) / 2**53

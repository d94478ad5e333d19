"""Bulk embedding of images or captions into Parquet or NumPy files.

The rows of each shard are a task, whose embeddings are stored in a hidden folder. When
all tasks are done, the shards are written from the columns of the source and these
embeddings. A run that was killed continues with the unfinished tasks.
"""

import collections
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.caption_cleaning import clean_caption
from align_keras.corpus.parquet_tables import arrow
from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.readers.embedding_source import (
    EMBEDDING_INPUTS,
    OUTPUT_COLUMNS,
    SourceRows,
    read_source,
)
from align_keras.search.readers.image_files import check_some_reached, read_file
from align_keras.search.readers.photos import decode_photo
from align_keras.search.update.file_embedding import map_in_order, model_of_task
from align_keras.utils.addresses import is_url, without_query
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import atomic_path, atomic_write, hold, refuse_url
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.tasks import LOCAL, is_cluster, run_tasks

# A killed run loses the work on one shard, and the progress is shown after each.
ROWS_PER_FILE = 1024
_LOCK = ".embed.lock"
_TASKS = ".tasks"
# New name of the folder of tasks before it is deleted, because a part of it must not be
# taken for the tasks of an unfinished run.
_OLD_TASKS = ".old_tasks"
# Number of rows that a thread embeds at once.
_CHUNK = 16


@dataclasses.dataclass
class Embedded:
    """Result of `embed`.

    Attributes:
        rows: number of rows.
        problems: problem → number of rows with this problem.
        files: output files in the order of the rows.

    Example:

    >>> Embedded(rows=2, problems={"empty caption": 1}, files=[]).rows
    2
    """

    rows: int
    problems: dict[str, int]
    files: list[pathlib.Path]


def embed(
    source: str | os.PathLike,
    to: str | os.PathLike,
    *,
    model: str | os.PathLike | Embedder = DEFAULT_MODEL,
    inputs: str | None = None,
    column: str | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    runtime: str | os.PathLike = "auto",
    engine: str = LOCAL,
) -> Embedded:
    """Embeds the images or the captions of a source.

    The output has the rows of the source in the same order and with the same columns.
    The added columns are `embedding`, with vectors of unit length, and `problem`, with
    the reason if a row has no embedding. If the function was interrupted, the same call
    continues with the shards whose rows are not embedded yet.

    Args:
        source: path or address. A folder of images has the columns `id`, the path
            relative to the folder, and `path`. A table (`.csv`, `.tsv`, `.jsonl`,
            `.parquet`) has a column of captions or of image paths, which are relative
            to the table. A text file (`.txt`) has one caption per line and the columns
            `id`, the number of the line, and `caption`.
        to: path of a new folder of shards. The shards are `00000.parquet` and so on.
            Without pyarrow, they are `00000.npy` with the other columns in
            `00000.jsonl`, and a row without an embedding is NaN.
        model: model name, path or `Embedder`, as in `align_keras.load_model`.
        inputs: `"images"` or `"captions"`. The default depends on the columns of the
            source. If a table has both, the images are embedded.
        column: name of the column to embed. By default it is detected by its name.
        rows_per_file: number of rows per shard. A killed run loses the work
            on at most one shard.
        runtime: runtime that computes the embeddings, as in `align_keras.load_model`.
        engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`. On a
            cluster, all machines must see the images and `to` at the same paths.

    Returns:
        `Embedded`.

    Raises:
        InputError: if the source cannot be read or has no rows, or if `to` contains
            anything except an unfinished output.

    Example:

    ```python
    embed("photos", "embeddings").rows  # 2
    embed("captions.txt", "of_captions").problems  # {}
    ```
    """
    if inputs is not None:
        check_choice("`inputs`", inputs, EMBEDDING_INPUTS)
    check_number("`rows_per_file`", rows_per_file, 1, 2**31 - 1, whole=True)
    is_cluster(engine)  # This call raises InputError for an unknown engine.
    refuse_url(to, "`to`")
    opened = load_model(model, runtime)
    source = os.fspath(source)
    if is_url(source):
        source = without_query(source)
    else:
        source = os.path.abspath(os.path.expanduser(source))
    with _locked_folder(pathlib.Path(to).absolute()) as folder:
        rows = read_source(source, inputs, column)
        if not rows.inputs:
            raise InputError(
                f"`source` must contain {rows.kind}. Received: {source}, which "
                "contains none. Check the path."
            )
        tasks = _make_tasks(rows, opened, rows_per_file, folder / _TASKS)
        problems = _run_tasks(tasks, opened, engine, folder / _TASKS)
        files = _write_shards(folder, rows, tasks, problems)
        (folder / _TASKS).rename(folder / _OLD_TASKS)
        shutil.rmtree(folder / _OLD_TASKS)
    counts = collections.Counter(
        problem for shard in problems for problem in shard if problem is not None
    )
    return Embedded(len(rows.inputs), dict(counts), files)


@contextlib.contextmanager
def _locked_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates the folder of an output, and holds a lock while it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder / _LOCK)
    if lock is None:
        raise InputError(
            f"`to` must be written by one process at a time. Received: {folder}, which "
            "another process is writing. Wait until that process has finished, or "
            "choose another folder."
        )
    with lock:
        names = set(os.listdir(folder)) - {_LOCK, _OLD_TASKS}
        if names and _TASKS not in names:
            raise InputError(
                "`to` must be a new folder, or one whose call was interrupted. "
                f"Received: {folder}, which contains files. Choose another folder."
            )
        shutil.rmtree(folder / _OLD_TASKS, ignore_errors=True)
        yield folder


# === Tasks ===


def _make_tasks(
    rows: SourceRows, model: Embedder, rows_per_file: int, folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Returns a task for the rows of each shard."""
    tasks = []
    for start in range(0, len(rows.inputs), rows_per_file):
        task = {
            "model": model.reference(),
            "kind": rows.kind,
            "inputs": rows.inputs[start : start + rows_per_file],
        }
        # The name depends on the model and the rows, so that a resumed run does not use
        # the embeddings of other rows.
        content = json.dumps(task, sort_keys=True).encode()
        name = hashlib.blake2b(content, digest_size=12).hexdigest()
        tasks.append({**task, "to": str(folder / f"{name}.npy")})
    return tasks


def _run_tasks(
    tasks: list[dict[str, Any]], model: Embedder, engine: str, folder: pathlib.Path
) -> list[list[str | None]]:
    """Runs the unfinished tasks. Returns the problem of each row of each task."""
    if is_cluster(engine):
        say(f"embedding: {len(tasks):,} tasks on {engine}")
        return run_tasks(embed_rows, tasks, folder, engine=engine)

    def embed_locally(task: dict[str, Any]) -> list[str | None]:
        return _embed_rows(task, model, os.cpu_count() or 1)

    total = sum(len(task["inputs"]) for task in tasks)
    done = sum(len(task["inputs"]) for task in tasks if os.path.exists(task["to"]))
    with progress_bar("embedding", tasks[0]["kind"], total, done) as bar:
        return run_tasks(
            embed_locally,
            tasks,
            folder,
            workers=1,
            on_result=lambda problems: bar.advance(len(problems or ())),
        )


def embed_rows(task: dict[str, Any]) -> list[str | None]:
    """Embeds the rows of a shard, as a task of `run_tasks` on a cluster.

    Args:
        task: dict with `model`, the `Embedder.reference`, `kind`, `inputs`, as in
            `SourceRows`, and `to`, the path of the NPY file for the embeddings.

    Returns:
        list with the reason why a row has no embedding, or None, for each row.
    """
    return _embed_rows(task, model_of_task(task["model"]), 1)


def _embed_rows(
    task: dict[str, Any], model: Embedder, threads: int
) -> list[str | None]:
    inputs = task["inputs"]
    chunks = [inputs[start : start + _CHUNK] for start in range(0, len(inputs), _CHUNK)]

    def embed_chunk(chunk: list[str | None]) -> tuple[np.ndarray, list[str | None]]:
        return _embed_chunk(chunk, task["kind"], model)

    vectors: list[np.ndarray] = []
    problems: list[str | None] = []
    for chunk_vectors, chunk_problems in map_in_order(embed_chunk, chunks, threads):
        vectors.append(chunk_vectors)
        problems += chunk_problems
    with atomic_path(task["to"]) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(vectors))
    return problems


def _embed_chunk(
    inputs: list[str | None], kind: str, model: Embedder
) -> tuple[np.ndarray, list[str | None]]:
    """Returns embeddings, float32 (n, d), and problems. Rows with one are NaN."""
    vectors = np.full((len(inputs), model.dimension), np.nan, np.float32)
    problems: list[str | None] = [None] * len(inputs)
    contents: dict[int, Any] = {}
    errors = []
    for row, value in enumerate(inputs):
        try:
            contents[row] = _read_input(value, kind, model)
        except ImageError as error:
            problems[row] = error.reason
            errors.append(error)
    check_some_reached(errors, len(inputs))
    if contents:
        encode = model.encode_resized if kind == "images" else model.encode_texts
        vectors[list(contents)] = encode(list(contents.values()))
    for row in contents:
        if not np.isfinite(vectors[row]).all():
            problems[row] = "not finite"
            vectors[row] = np.nan
    return vectors, problems


def _read_input(value: str | None, kind: str, model: Embedder) -> np.ndarray | str:
    """Reads the pixels or the text to embed."""
    if kind == "captions":
        text = clean_caption(value or "")
        if not text:
            raise ImageError("empty caption", "no words")
        return text
    if not value:
        raise ImageError("missing", "no path")
    return decode_photo(read_file(os.fsencode(value))[0], model.image_transform).pixels


# === Output ===


def _write_shards(
    folder: pathlib.Path,
    rows: SourceRows,
    tasks: list[dict[str, Any]],
    problems: list[list[str | None]],
) -> list[pathlib.Path]:
    """Writes the columns and embeddings of all shards, and returns their files."""
    # A run that was killed here leaves shards, of which it may have had more.
    for old in (*folder.glob("[0-9]*"), *folder.glob(".*.tmp")):
        old.unlink()
    columns = dict(rows.columns)
    write = _write_numpy
    suffix = "npy"
    if importlib.util.find_spec("pyarrow") is not None:
        # All shards get the same types.
        columns = {name: _arrow_column(columns[name]) for name in columns}
        write = _write_parquet
        suffix = "parquet"
    files: list[pathlib.Path] = []
    start = 0
    for task, shard_problems in zip(tasks, problems, strict=True):
        stop = start + len(shard_problems)
        shard = {name: values[start:stop] for name, values in columns.items()}
        file = folder / f"{len(files):05}.{suffix}"
        write(file, shard, np.load(task["to"]), shard_problems)
        files.append(file)
        start = stop
    return files


def _write_parquet(
    path: pathlib.Path,
    columns: Mapping[str, Any],
    vectors: np.ndarray,
    problems: Sequence[str | None],
) -> None:
    pa = arrow()
    rows = [
        None if problem else vector
        for vector, problem in zip(vectors, problems, strict=True)
    ]
    embedding, problem = OUTPUT_COLUMNS
    table = pa.table(
        {
            **columns,
            # The lists have a variable size, because Arrow cannot read null values back
            # from lists of a fixed size.
            embedding: pa.array(rows, pa.list_(pa.float32())),
            problem: pa.array(problems, pa.string()),
        }
    )
    with atomic_path(path) as temporary:
        pa.parquet.write_table(table, temporary, compression="zstd")


def _arrow_column(values: Any) -> Any:
    """Returns an Arrow column. Values of mixed types are converted to JSON."""
    pa = arrow()
    if not isinstance(values, list):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values])


def _write_numpy(
    path: pathlib.Path,
    columns: Mapping[str, Any],
    vectors: np.ndarray,
    problems: Sequence[str | None],
) -> None:
    with atomic_write(path.with_suffix(".jsonl")) as lines:
        for number, problem in enumerate(problems):
            row = {name: values[number] for name, values in columns.items()}
            if problem is not None:
                row["problem"] = problem
            lines.write(_json_line(row))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, vectors)


def _json_line(row: dict[str, Any]) -> str:
    """Returns a row as a line of JSON in UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        # A text within a list or an object has half of a surrogate pair.
        line = json.dumps(row)
    return line + "\n"

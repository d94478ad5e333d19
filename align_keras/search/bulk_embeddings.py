"""Bulk embedding of images or captions into Parquet or NumPy files.

The job first stores the rows of the source, so that a resumed run has the same rows. It
then embeds one shard after another. A shard gets its final file name once it is
complete, so a run that was killed continues with the missing shards.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.caption_cleaning import clean_caption
from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.pair_files import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    TABLE_SUFFIXES,
    read_table,
)
from align_keras.corpus.parquet_tables import arrow, read_rows
from align_keras.corpus.sources.source_files import is_folder
from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.image_files import (
    SkippedFile,
    check_some_reached,
    decode_square,
    encode_path,
    find_images,
    read_file,
)
from align_keras.search.indexing import map_in_order, model_of_task
from align_keras.search.shard_files import (
    EMBEDDING_FORMATS,
    INPUT_COLUMN,
    ROWS_NAMES,
    RowResult,
    SourceRows,
    default_format,
    open_shard_files,
)
from align_keras.utils.addresses import without_secrets
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import (
    atomic_path,
    atomic_write,
    hold,
    local_copy,
    read_json,
    read_regular,
    refuse_url,
)
from align_keras.utils.pillow_images import ImageError
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.remote import is_url, join_url
from align_keras.utils.tasks import LOCAL, is_cluster, run_tasks

EMBEDDING_INPUTS = ("images", "captions")
ROWS_PER_FILE = 4096
_VERSION = 1
_PLAN = "plan.json"
_LOCK = ".embed.lock"
_TASKS = ".tasks"
# Columns that the output adds to those of the source.
_OUTPUT_COLUMNS = ("embedding", "problem")
# Number of rows that a thread embeds at once.
_CHUNK = 16


@dataclasses.dataclass
class Embedded:
    """Result of `embed`.

    Attributes:
        rows: int, number of rows.
        problems: dict, problem → number of rows with this problem.
        files: list of pathlib.Path, output files in the order of the rows.

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
    format: str | None = None,
    rows_per_file: int = ROWS_PER_FILE,
    runtime: str | os.PathLike = "auto",
    engine: str = LOCAL,
) -> Embedded:
    """Embeds the images or the captions of a source.

    The output has the rows of the source in the same order and with the same columns.
    The added columns are `embedding`, with vectors of unit length, and `problem`, with
    the reason if a row has no embedding. If the function was interrupted, the same call
    resumes it.

    Args:
        source: path or address. A folder of images has the columns `id`, the path
            relative to the folder, and `path`. A table (`.csv`, `.tsv`, `.jsonl`,
            `.parquet`) has a column of captions or of image paths, which are relative
            to the table. A text file (`.txt`) has one caption per line and the columns
            `id`, the number of the line, and `caption`.
        to: path of a new file `OUT.parquet`, or of a new folder of shards. The shards
            are `00000.parquet` and so on, or `00000.npy` with the other columns in
            `00000.jsonl`. In NPY files, a row without an embedding is NaN.
        model: model name, path or `Embedder`, as in `align_keras.load_model`.
        inputs: `"images"` or `"captions"`. The default depends on the columns of the
            source. If a table has both, the images are embedded.
        column: name of the column to embed. By default it is detected by its name.
        format: `"parquet"` or `"npy"`, format of the shards in a folder. Defaults to
            Parquet, and to NPY files if pyarrow is not installed.
        rows_per_file: int >= 1, number of rows per shard. A killed run loses the work
            on at most one shard.
        runtime: runtime that computes the embeddings, as in `align_keras.load_model`.
        engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`. On a
            cluster each shard is a task, and all machines must see the images and `to`
            at the same paths.

    Returns:
        `Embedded`.

    Raises:
        InputError: if the source cannot be read or has no rows, or if `to` exists and
            was not written by the same call.

    Example:

    ```python
    embed("photos", "photos.parquet").rows  # 2
    embed("captions.txt", "captions", format="npy").problems  # {}
    ```
    """
    if inputs is not None:
        check_choice("`inputs`", inputs, EMBEDDING_INPUTS)
    if format is not None:
        check_choice("`format`", format, EMBEDDING_FORMATS)
    check_number("`rows_per_file`", rows_per_file, 1, 2**31 - 1, whole=True)
    is_cluster(engine)  # This call raises InputError for an unknown engine.
    refuse_url(to, "`to`")
    to = pathlib.Path(to)
    is_file = to.suffix.lower() == ".parquet"
    format = format or ("parquet" if is_file else default_format())
    if is_file and format != "parquet":
        raise InputError(
            f"`to` must be a folder for format={format!r}. Received: to={to}. Pass the "
            "path of a folder."
        )
    if format == "parquet":
        arrow(", or write NPY files to a folder")
    opened = load_model(model, runtime)
    source = os.fspath(source)
    if is_url(source):
        source = without_secrets(source)
    else:
        source = os.path.abspath(os.path.expanduser(source))
    request = _Request(
        source=source,
        model=opened.fingerprint,
        dimension=opened.dimension,
        inputs=inputs,
        column=column,
        format=format,
        rows_per_file=rows_per_file,
    )
    if is_file:
        return _embed_to_file(to, request, opened, engine)
    return _embed_to_folder(to, request, opened, engine)


@dataclasses.dataclass(frozen=True)
class _Request:
    """Arguments of a call of `embed`. The output stores them to resume the same call.

    Attributes:
        source: str, absolute path or address of the source.
        model: str, fingerprint of the model.
        dimension: int, width of the embeddings.
        inputs: str, one of `EMBEDDING_INPUTS`, or None.
        column: str, name of the column to embed, or None.
        format: str, one of `EMBEDDING_FORMATS`.
        rows_per_file: int, number of rows per shard.
    """

    source: str
    model: str
    dimension: int
    inputs: str | None
    column: str | None
    format: str
    rows_per_file: int

    def as_json(self) -> dict[str, Any]:
        return {"align_keras_embeddings": _VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "_Request":
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: content[name] for name in names})


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Some rows of a shard.

    Attributes:
        shard: int, number of the shard.
        columns: columns of the source, as `ShardFiles.read_chunks` returns them.
        inputs: list of bytes or None, the path or the text to embed of each row.
    """

    shard: int
    columns: Any
    inputs: list[bytes | None]


@dataclasses.dataclass(frozen=True)
class _EmbeddedChunk:
    """Embedded rows of a shard.

    Attributes:
        shard: int, number of the shard.
        columns: columns of the source, as in `_Chunk`.
        results: list of `RowResult`, one per row.
    """

    shard: int
    columns: Any
    results: list[RowResult]


def _embed_to_folder(
    to: pathlib.Path, request: _Request, model: Embedder, engine: str
) -> Embedded:
    """Embeds the source to shards in a folder."""
    with _locked_folder(to):
        job = _Job(to, request, model)
        job.run(engine)
        job.files.remove_rows()
        return _count_rows(job.shards())


def _embed_to_file(
    to: pathlib.Path, request: _Request, model: Embedder, engine: str
) -> Embedded:
    """Embeds the source to shards in a folder next to the file, then joins them."""
    parts = to.with_name(to.name + ".parts")
    if to.exists():
        stored = _request_of_file(to)
        _check_same(to, stored, request)
        num_rows = arrow().parquet.read_metadata(to).num_rows
        _report_change(to, request, num_rows, stored.get("source_digest"))
        shutil.rmtree(parts, ignore_errors=True)
        return _count_rows([to])
    with _locked_folder(parts):
        job = _Job(parts, request, model)
        job.run(engine)
        parquet = arrow().parquet
        shards = job.shards()
        stored = {**request.as_json(), "source_digest": job.source_digest}
        metadata = {b"align_keras": json.dumps(stored).encode()}
        schema = parquet.read_schema(shards[0]).with_metadata(metadata)
        with atomic_path(to) as path, parquet.ParquetWriter(path, schema) as writer:
            for shard in shards:
                writer.write_table(parquet.read_table(shard))
        shutil.rmtree(parts)
    return _count_rows([to])


@contextlib.contextmanager
def _locked_folder(folder: pathlib.Path) -> Iterator[None]:
    """Creates a folder and holds a lock, so that only this process writes to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"`to` must be a new folder or a file OUT.parquet. Received: {folder}, "
            "which is a file. Choose another path."
        ) from None
    lock = hold(folder / _LOCK)
    if lock is None:
        raise InputError(
            f"`to` must be written by one process at a time. Received: {folder}, which "
            "another process is writing. Wait until that process has finished, or "
            "choose another folder."
        )
    with lock:
        # A killed process leaves temporary files.
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        yield


def _check_same(to: pathlib.Path, stored: dict[str, Any], request: _Request) -> None:
    """Raises InputError unless the output was started by the same request.

    Args:
        to: path of the output.
        stored: dict, request that the output stores, or {}.
        request: request of this call.
    """
    if "align_keras_embeddings" not in stored:
        raise InputError(
            f"`to` must be a new path. Received: {to}, which contains other data. "
            "Choose another path."
        )
    for name, value in request.as_json().items():
        if stored.get(name) != value:
            raise InputError(
                "`to` must be a new path or the output of a call with the same "
                f"arguments. Received: {to}, which was written with "
                f"{name}={stored.get(name)!r:.200} instead of {value!r:.200}. Choose "
                "another path, or remove this output."
            )


def _report_change(
    to: pathlib.Path, request: _Request, num_rows: int, source_digest: str | None
) -> None:
    """Prints a message if the source has changed since the job was started.

    The job continues with the rows that it stored at the start, so that all shards are
    consistent.

    Args:
        to: path of the output.
        request: request that started the job.
        num_rows: number of rows of the source at the start.
        source_digest: digest of these rows, or None in an output of an older release.
    """
    try:
        rows, _ = _read_source(request)
    except (InputError, OSError):
        # The source is missing or unreachable, but the job needs only the stored rows.
        return
    is_same = source_digest is None or source_digest == _digest(rows)
    if len(rows.inputs) == num_rows and is_same:
        return
    say(
        f"{printable(request.source)} has changed since the start of {to}. It had "
        f"{num_rows:,} rows, and now has {len(rows.inputs):,}. The output keeps the "
        "earlier rows. To embed the current rows, choose another output."
    )


def _digest(rows: SourceRows) -> str:
    """Returns a digest of the values to embed, in the order of the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for value in rows.inputs:
        content = b"" if value is None else value
        digest.update(b"%d %d " % (value is None, len(content)) + content)
    return digest.hexdigest()


def _request_of_file(path: pathlib.Path) -> dict[str, Any]:
    """Returns the request that a Parquet file of embeddings stores, or {}."""
    pyarrow = arrow()
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        return _rename_inputs(json.loads(metadata.get(b"align_keras", b"{}")))
    except (OSError, ValueError, pyarrow.ArrowInvalid):
        return {}


def _rename_inputs(stored: dict[str, Any]) -> dict[str, Any]:
    """Renames the key `of` of earlier releases to `inputs` in a stored request."""
    if "of" not in stored:
        return stored
    current = dict(stored)
    current["inputs"] = current.pop("of")
    return current


class _Job:
    """Job that embeds a source to shards in a folder, and skips existing shards."""

    def __init__(
        self, folder: pathlib.Path, request: _Request, model: Embedder
    ) -> None:
        self.folder = folder
        self.request = request
        self.model = model
        self.files = open_shard_files(folder, request.format, request.dimension)
        stored = _rename_inputs(read_json(folder / _PLAN))
        internal_names = {*ROWS_NAMES, _LOCK, _TASKS}
        if {path.name for path in folder.iterdir()} - internal_names:
            _check_same(folder, stored, request)
            digest = stored.get("source_digest")
            _report_change(folder, request, stored["rows"], digest)
        else:
            stored = self._begin()
        self.rows: int = stored["rows"]
        self.input_kind: str = stored["embeds"]
        # The digest is None in an output of an older release.
        self.source_digest: str | None = stored.get("source_digest")

    def _begin(self) -> dict[str, Any]:
        """Starts the job: stores the rows of the source, and then the plan.

        The plan is written last, because the existence of its file marks the rows as
        complete.
        """
        rows, input_kind = _read_source(self.request)
        if not rows.inputs:
            raise InputError(
                f"`source` must contain {input_kind}. Received: {self.request.source}, "
                "which contains none. Check the path."
            )
        self.files.store_rows(rows, self.request.rows_per_file)
        plan = {
            **self.request.as_json(),
            "rows": len(rows.inputs),
            "embeds": input_kind,
            "source_digest": _digest(rows),
        }
        with atomic_write(self.folder / _PLAN) as file:
            file.write(json.dumps(plan, indent=2) + "\n")
        return plan

    def shards(self) -> list[pathlib.Path]:
        """Returns the paths of all shards."""
        suffix = self.request.format
        count = -(-self.rows // self.request.rows_per_file)
        return [self.folder / f"{number:05}.{suffix}" for number in range(count)]

    def _num_rows(self, shard: int) -> int:
        """Returns the number of rows of a shard."""
        size = self.request.rows_per_file
        return min(size, self.rows - shard * size)

    def run(self, engine: str) -> None:
        """Embeds the shards that are missing."""
        shards = self.shards()
        missing = [number for number, path in enumerate(shards) if not path.exists()]
        if not missing:
            return
        if not self.files.rows_path.exists():
            raise InputError(
                "`to` must contain all shards or the stored rows of the source. "
                f"Received: {self.folder}, in which {shards[missing[0]].name} and the "
                "rows are missing. Remove the folder to start again."
            )
        if not is_cluster(engine):
            self.embed(missing, os.cpu_count() or 1)
            return
        say(f"embedding: {len(missing):,} tasks on {engine}")
        tasks = [
            {
                "folder": str(self.folder.absolute()),
                "request": dataclasses.asdict(self.request),
                "model": self.model.reference(),
                "shard": number,
            }
            for number in missing
        ]
        # Existing shards show which tasks are done, so the results of an earlier run
        # are not needed.
        shutil.rmtree(self.folder / _TASKS, ignore_errors=True)
        run_tasks(embed_shard, tasks, self.folder / _TASKS, engine=engine)
        shutil.rmtree(self.folder / _TASKS)

    def embed(self, missing: Sequence[int], threads: int) -> None:
        """Embeds shards with threads of this process."""
        shards = self.shards()
        done = self.rows - sum(self._num_rows(shard) for shard in missing)
        chunks = map_in_order(self._embed_chunk, self._chunks(missing), threads)
        columns: list[Any] = []
        results: list[RowResult] = []
        with progress_bar("embedding", self.input_kind, self.rows, done) as bar:
            for chunk in chunks:
                columns.append(chunk.columns)
                results += chunk.results
                bar.advance(len(chunk.results))
                if len(results) == self._num_rows(chunk.shard):
                    self.files.write(shards[chunk.shard], columns, results)
                    columns = []
                    results = []

    def _chunks(self, missing: Sequence[int]) -> Iterator[_Chunk]:
        """Yields the rows of shards, some rows at a time."""
        for shard in missing:
            for columns, inputs in self.files.read_chunks(shard, _CHUNK):
                yield _Chunk(shard, columns, inputs)

    def _embed_chunk(self, chunk: _Chunk) -> _EmbeddedChunk:
        """Embeds some rows in a thread."""
        results: dict[int, RowResult] = {}
        inputs: dict[int, Any] = {}
        errors = []
        for row, value in enumerate(chunk.inputs):
            try:
                inputs[row] = self._read_input(value)
            except ImageError as error:
                results[row] = RowResult(problem=error.reason)
                errors.append(error)
        check_some_reached(errors, len(chunk.inputs))
        if inputs:
            vectors = self._encode(list(inputs.values()))
            for row, vector in zip(inputs, vectors, strict=True):
                if np.isfinite(vector).all():
                    results[row] = RowResult(vector=vector.astype(np.float32))
                else:
                    results[row] = RowResult(problem="not finite")
        return _EmbeddedChunk(
            shard=chunk.shard,
            columns=chunk.columns,
            results=[results[row] for row in range(len(chunk.inputs))],
        )

    def _encode(self, inputs: list[Any]) -> np.ndarray:
        if self.input_kind == "images":
            return self.model.encode_resized(inputs)
        return self.model.encode_texts(inputs)

    def _read_input(self, value: bytes | None) -> np.ndarray | str:
        """Reads the pixels or the text to embed from an input of a row."""
        if self.input_kind == "captions":
            text = clean_caption((value or b"").decode())
            if not text:
                raise ImageError("empty caption", "no words")
            return text
        if not value:
            raise ImageError("missing", "no path")
        return decode_square(read_file(value)[0], self.model.resize_to).pixels


def embed_shard(task: dict[str, Any]) -> None:
    """Embeds the shard of a task of `run_tasks`."""
    model = model_of_task(task["model"])
    request = _Request.from_json(task["request"])
    job = _Job(pathlib.Path(task["folder"]), request, model)
    job.embed([task["shard"]], 1)


def _count_rows(files: list[pathlib.Path]) -> Embedded:
    """Returns the numbers of rows and problems in the output files."""
    problems = collections.Counter(
        problem for file in files for problem in _read_problems(file)
    )
    num_rows = problems.total()
    named_problems = {
        problem: count for problem, count in problems.items() if problem is not None
    }
    return Embedded(num_rows, named_problems, files)


def _read_problems(file: pathlib.Path) -> Iterator[str | None]:
    """Yields the problem of each row of an output file, or None."""
    if file.suffix == ".npy":
        with open(file.with_suffix(".jsonl"), encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line).get("problem")
        return
    for row in read_rows(file, ["problem"]):
        yield row["problem"]


# === Sources ===


def _read_source(request: _Request) -> tuple[SourceRows, str]:
    """Reads all rows of a source.

    Returns:
        `(rows, kind)`: `SourceRows`, and "images" or "captions".
    """
    source = request.source
    if is_folder(source):
        if request.inputs == "captions" or request.column:
            raise InputError(
                "`source` must be a table or text file for `inputs` captions or "
                f"`column`. Received: the folder {source}. Leave `inputs` and `column` "
                "out."
            )
        return _read_folder(source), "images"
    with local_copy(source) as copy:
        folder = os.path.dirname(source)
        return _read_file(copy, folder, request.inputs, request.column)


def _read_file(
    source: pathlib.Path, folder: str, input_kind: str | None, column: str | None
) -> tuple[SourceRows, str]:
    """Reads the rows of a file.

    Args:
        source: path of the file, or of a local copy.
        folder: path or address of the folder for the relative paths of images.
        input_kind: one of `EMBEDDING_INPUTS`, or None.
        column: name of the column to embed, or None.
    """
    if not source.exists():
        raise InputError(f"`source` must exist. Received: {source}. Check the path.")
    readers: dict[str, Callable[[pathlib.Path], dict[str, Any]]] = {
        ".txt": _read_text_file,
        ".parquet": _read_parquet,
        **dict.fromkeys(TABLE_SUFFIXES, _read_text_table),
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise InputError(
            f"`source` must be a folder or end in {', '.join(sorted(readers))}. "
            f"Received: {source}. Rename or convert the file."
        )
    columns = reader(source)
    for name in (*_OUTPUT_COLUMNS, INPUT_COLUMN):
        if name in columns:
            raise InputError(
                f"`source` must not have the column {name!r}, which `embed` adds. "
                f"Received: {source}. Rename the column."
            )
    name, kind = _select_column(source, list(columns), input_kind, column)
    return SourceRows(columns, _inputs(columns[name], name, kind, folder)), kind


def _select_column(
    source: pathlib.Path,
    names: Sequence[str],
    input_kind: str | None,
    column: str | None,
) -> tuple[str, str]:
    """Returns the column to embed, and "images" or "captions"."""
    listed_names = ", ".join(map(repr, names[:20]))
    if column is not None:
        if column not in names:
            raise InputError(
                f"`column` must be a column of {source.name}, which has "
                f"{listed_names}. Received: column={column!r}. Choose one of these "
                "columns."
            )
        detected = "images" if column.lower() in IMAGE_COLUMNS else "captions"
        return column, input_kind or detected
    by_lower = {name.lower(): name for name in reversed(names)}
    default_columns = {"images": IMAGE_COLUMNS, "captions": CAPTION_COLUMNS}
    for kind in EMBEDDING_INPUTS if input_kind is None else (input_kind,):
        for name in default_columns[kind]:
            if name in by_lower:
                return by_lower[name], kind
    raise InputError(
        f"`column` must name the column of {source.name} to embed, which has "
        f"{listed_names}. Received: None. Choose one of these columns."
    )


def _inputs(column: Any, name: str, input_kind: str, folder: str) -> list[bytes | None]:
    """Returns the paths or texts to embed as bytes.

    Args:
        column: list or Arrow column with the paths or texts.
        name: str, name of the column.
        input_kind: one of `EMBEDDING_INPUTS`.
        folder: path or address of the folder for relative paths.
    """
    texts = column if isinstance(column, list) else column.to_pylist()
    if input_kind == "images":
        texts = [_path_of_image(value, name) for value in texts]
    for text in texts:
        if not isinstance(text, str | None):
            raise InputError(
                f"`column` must contain text. Received: column={name!r} with "
                f"{text!r:.80}. Choose another column."
            )
    join = join_url if is_url(folder) else os.path.join
    values: list[bytes | None] = []
    for text in texts:
        if text is None:
            values.append(None)
        elif input_kind == "captions":
            values.append(text.encode())
        else:
            # An empty path stays empty. Its row gets the problem "missing".
            path = join(folder, text.strip())
            values.append(encode_path(path) if text else b"")
    return values


def _path_of_image(value: Any, name: str) -> Any:
    """Returns the path in an image of Hugging Face, or another value unchanged."""
    if not isinstance(value, dict) or not {"bytes", "path"} <= set(value):
        return value
    if value["bytes"] is not None:
        raise InputError(
            f"`column` must contain paths of images. Received: column={name!r} with "
            "the bytes of images. Save the images as files, or build a corpus from the "
            "table."
        )
    return value["path"]


def _read_folder(folder: str) -> SourceRows:
    files: list[bytes | None] = []
    for image in find_images(os.fsencode(folder)):
        if isinstance(image, SkippedFile):
            say(f"{printable(os.fsdecode(image.file))}: {image.reason}")
        else:
            files.append(image.file)
    paths = [printable(os.fsdecode(file)) for file in files if file is not None]
    prefix = printable(os.path.join(folder, ""))
    ids = [path.replace(prefix, "", 1) for path in paths]
    return SourceRows({"id": ids, "path": paths}, files)


def _read_text_file(source: pathlib.Path) -> dict[str, Any]:
    try:
        text = read_regular(source).decode("utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"`source` must be text in UTF-8. Received: {source}, which cannot be read "
            f"({error}). Convert the file."
        ) from None
    # `str.splitlines` would also split at other characters, which captions may contain.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    captions = [line.removesuffix("\r") for line in lines]
    ids = list(range(1, len(captions) + 1))
    return {"id": ids, "caption": captions}


def _read_parquet(source: pathlib.Path) -> dict[str, Any]:
    pyarrow = arrow()
    try:
        table = pyarrow.parquet.read_table(source)
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"`source` must be a valid Parquet file. Received: {source}, which cannot "
            f"be read ({reason}). Write the file again."
        ) from None
    return dict(zip(table.column_names, table.columns, strict=True))


def _read_text_table(source: pathlib.Path) -> dict[str, Any]:
    """Reads a CSV, TSV or JSONL file, and reports its broken rows."""
    counter = DropCounter("rows")
    names, rows = read_table(source, "utf-8", counter)
    for reason, count in counter.bad.items():
        example = counter.examples.get(reason)
        say(f"{count:,} rows skipped: {reason} (for example {example})")
    return {name: [_printable(row.get(name)) for row, _ in rows] for name in names}


def _printable(value: Any) -> Any:
    """Escapes the parts of a text that UTF-8 cannot encode. Returns other values."""
    return printable(value) if isinstance(value, str) else value

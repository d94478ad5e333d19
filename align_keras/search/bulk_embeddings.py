"""Embeds many images or captions to files, and resumes after a kill.

The rows of the source are stored first, so that every run has the same rows. Then one
shard after another is embedded. A shard is complete when it has its name.
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
from align_keras.corpus.image import ImageError
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
    UnreadFile,
    check_some_reached,
    decode_square,
    find_images,
    read_file,
)
from align_keras.search.indexing import in_order, model_of_task
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
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.remote import is_url, join_url
from align_keras.utils.tasks import LOCAL, is_cluster, run_tasks

EMBEDDING_FORMATS = ("parquet", "npy")
EMBEDDING_INPUTS = ("images", "captions")
ROWS_PER_FILE = 4096
_VERSION = 1
_PLAN = "plan.json"
_ROWS = "rows.parquet"
_LOCK = ".embed.lock"
_TASKS = ".tasks"
# Column of the bytes to embed, of a path or of a text. It is not in the output.
_EMBEDDED = "align_keras:embedded"
_ADDED = ("embedding", "problem")
# Rows that a thread embeds at once.
_CHUNK = 16


@dataclasses.dataclass
class Embedded:
    """Result of `embed`.

    Attributes:
        rows: int, number of rows.
        problems: dict, problem → number of rows that have it.
        files: list of pathlib.Path, the files in the order of the rows.
    """

    rows: int
    problems: dict[str, int]
    files: list[pathlib.Path]


def embed(
    source: str | os.PathLike,
    to: str | os.PathLike,
    *,
    model: str | os.PathLike | Embedder = DEFAULT_MODEL,
    of: str | None = None,
    column: str | None = None,
    format: str = "parquet",
    rows_per_file: int = ROWS_PER_FILE,
    runtime: str | os.PathLike = "auto",
    engine: str = LOCAL,
) -> Embedded:
    """Embeds the images or the captions of a source.

    Every row of the source is a row of the output, in the same order and with the same
    columns, and besides them `embedding`, of unit length, and `problem`: why a row has
    none. Called again after an interruption, it goes on.

    Args:
        source: a folder of images (columns `id`, the path below it, and `path`); a
            table (`.csv`, `.tsv`, `.jsonl`, `.parquet`) with a column of images' paths,
            relative to the table, or of captions; or a text file (`.txt`) of one
            caption a line (columns `id`, the line's number, and `caption`).
        to: a new file `OUT.parquet`, or a new folder of shards: `00000.parquet` …, or
            `00000.npy` with `00000.jsonl` of the columns, where a row without an
            embedding is NaN.
        model: as `align_keras.load_model` takes it.
        of: `"images"` or `"captions"`; by default what the source has, of tables that
            have both images.
        column: name of the table's column, by default guessed.
        format: `"parquet"` or `"npy"`, of the shards in a folder.
        rows_per_file: int >= 1, rows of a shard, of which a kill loses one at most.
        runtime: what computes the embeddings, as `align_keras.load_model` takes it.
        engine: where the tasks run, one of `align_keras.utils.tasks.ENGINES`. A task of
            a cluster is a shard, and its machines see the images and `to` by the same
            paths.

    Returns:
        `Embedded`.

    Raises:
        InputError: for a source that can't be read or has no rows, and an output that
            is there and another's.

    Example:

    ```python
    embed("photos", "photos.parquet")
    embed("captions.txt", "captions", format="npy")
    ```
    """
    if of is not None:
        check_choice("`of`", of, EMBEDDING_INPUTS)
    check_choice("`format`", format, EMBEDDING_FORMATS)
    check_number("`rows_per_file`", rows_per_file, 1, 2**31 - 1, whole=True)
    is_cluster(engine)  # Raises for an unknown one.
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
        of=of,
        column=column,
        format=format,
        rows_per_file=rows_per_file,
    )
    refuse_url(to, "`to`")
    to = pathlib.Path(to)
    if to.suffix.lower() == ".parquet":
        if format != "parquet":
            raise InputError(
                f"`to` must be a folder for {format} shards. Received: {to}. Name a "
                "folder."
            )
        return _to_one_file(to, request, opened, engine)
    return _to_folder(to, request, opened, engine)


@dataclasses.dataclass(frozen=True)
class _Request:
    """A call of `embed`, which the output stores so that the same call resumes it.

    Attributes:
        source: str, absolute path or address of the source.
        model: str, fingerprint of the model.
        dimension: int, width of the embeddings.
        of: str, one of `EMBEDDING_INPUTS`, or None.
        column: str, name of the table's column, or None.
        format: str, one of `EMBEDDING_FORMATS`.
        rows_per_file: int, rows of a shard.
    """

    source: str
    model: str
    dimension: int
    of: str | None
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
class _RowResult:
    """Result of a row: its embedding, float32 (d,), or the reason why it has none."""

    vector: np.ndarray | None = None
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Rows of a shard: the shard's number, and the rows as an Arrow batch."""

    shard: int
    rows: Any


@dataclasses.dataclass(frozen=True)
class _EmbeddedChunk:
    """Embedded rows of a shard.

    Attributes:
        shard: int, the shard's number.
        columns: Arrow batch, the columns of the source.
        results: list, one for each row.
    """

    shard: int
    columns: Any
    results: list[_RowResult]


def _to_folder(
    to: pathlib.Path, request: _Request, model: Embedder, engine: str
) -> Embedded:
    """Embeds to shards in a folder."""
    with _locked_folder(to):
        job = _Job(to, request, model)
        job.run(engine)
        (to / _ROWS).unlink(missing_ok=True)
        return _count_rows(job.shards())


def _to_one_file(
    to: pathlib.Path, request: _Request, model: Embedder, engine: str
) -> Embedded:
    """Embeds to shards next to the file, then joins them to the file."""
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
    """Makes a folder, and lets only one process write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"`to` must be a new folder or a file OUT.parquet. Received: {folder}, "
            "which is a file. Name another."
        ) from None
    lock = hold(folder / _LOCK)
    if lock is None:
        raise InputError(
            f"`to` must be written by one process at a time. Received: {folder}, which "
            "another process is writing. Wait for its end, or name another folder."
        )
    with lock:
        # A killed process leaves temporary files.
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        yield


def _check_same(to: pathlib.Path, stored: dict[str, Any], request: _Request) -> None:
    """Raises InputError unless the same request began the output."""
    if "align_keras_embeddings" not in stored:
        raise InputError(
            f"`to` must be new. Received: {to}, which holds something else. Name "
            "another."
        )
    for name, value in request.as_json().items():
        if stored.get(name) != value:
            raise InputError(
                f"`to` must be new or of the same call. Received: {to}, whose {name} "
                f"is {stored.get(name)!r:.200} in place of {value!r:.200}. Name "
                "another, or remove it."
            )


def _report_change(
    to: pathlib.Path, request: _Request, num_rows: int, source_digest: str | None
) -> None:
    """Reports a source that has changed since the output was begun.

    The output keeps the rows with which it was begun, so that its files agree.

    Args:
        to: the output.
        request: the call that began it.
        num_rows: number of rows of the source at that time.
        source_digest: digest of these rows, or None in an output of an older release.
    """
    try:
        table, _ = _read_source(request)
    except InputError:
        # The source is gone, and the output needs only the stored rows.
        return
    is_same = source_digest is None or source_digest == _digest(table)
    if table.num_rows == num_rows and is_same:
        return
    say(
        f"{printable(request.source)} has changed since {to} was begun. It had "
        f"{num_rows:,} rows, and has {table.num_rows:,}. {to} has the former. To "
        "embed the latter, name another output."
    )


def _digest(table: Any) -> str:
    """Returns a digest of the bytes to embed, in the order of the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.column(_EMBEDDED).chunks:
        for value in batch.to_pylist():
            content = b"" if value is None else value
            digest.update(b"%d %d " % (value is None, len(content)) + content)
    return digest.hexdigest()


def _request_of_file(path: pathlib.Path) -> dict[str, Any]:
    """Returns the request that a file of embeddings stores, or {}."""
    pyarrow = arrow()
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        return json.loads(metadata.get(b"align_keras", b"{}"))
    except (OSError, ValueError, pyarrow.ArrowInvalid):
        return {}


class _Job:
    """Shards of embeddings in a folder, of which some may be complete."""

    def __init__(
        self, folder: pathlib.Path, request: _Request, model: Embedder
    ) -> None:
        self.folder = folder
        self.request = request
        self.model = model
        stored = read_json(folder / _PLAN)
        files = {path.name for path in folder.iterdir()} - {_ROWS, _LOCK, _TASKS}
        if files:
            _check_same(folder, stored, request)
            digest = stored.get("source_digest")
            _report_change(folder, request, stored["rows"], digest)
        else:
            stored = self._begin()
        self.rows: int = stored["rows"]
        self.input_kind: str = stored["embeds"]
        # None in a folder of an older release.
        self.source_digest: str | None = stored.get("source_digest")

    def _begin(self) -> dict[str, Any]:
        """Stores the rows of the source, then the plan, which completes them."""
        table, input_kind = _read_source(self.request)
        if not table.num_rows:
            raise InputError(
                f"`source` must hold {input_kind}. Received: {self.request.source}, "
                "which holds none. Check it."
            )
        with atomic_path(self.folder / _ROWS) as temporary:
            # A row group is a shard.
            size = self.request.rows_per_file
            arrow().parquet.write_table(table, temporary, row_group_size=size)
        plan = {
            **self.request.as_json(),
            "rows": table.num_rows,
            "embeds": input_kind,
            "source_digest": _digest(table),
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
        if not (self.folder / _ROWS).exists():
            raise InputError(
                f"`to` must be complete or resumable. Received: {self.folder}, which "
                f"lacks {shards[missing[0]].name}. Remove the folder to begin again."
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
        # The shards show which tasks are done. Results of an earlier run don't count.
        shutil.rmtree(self.folder / _TASKS, ignore_errors=True)
        run_tasks(embed_shard, tasks, self.folder / _TASKS, engine=engine)
        shutil.rmtree(self.folder / _TASKS)

    def embed(self, missing: Sequence[int], threads: int) -> None:
        """Embeds shards with threads of this process."""
        shards = self.shards()
        done = self.rows - sum(self._num_rows(shard) for shard in missing)
        chunks = in_order(self._embed_chunk, self._chunks(missing), threads)
        columns: list[Any] = []
        results: list[_RowResult] = []
        with progress_bar("embedding", self.input_kind, self.rows, done) as bar:
            for chunk in chunks:
                columns.append(chunk.columns)
                results += chunk.results
                bar.advance(len(chunk.results))
                if len(results) == self._num_rows(chunk.shard):
                    self._write(shards[chunk.shard], columns, results)
                    columns = []
                    results = []

    def _chunks(self, missing: Sequence[int]) -> Iterator[_Chunk]:
        """Yields the rows of shards, some rows at a time."""
        with arrow().parquet.ParquetFile(self.folder / _ROWS) as file:
            for shard in missing:
                for rows in file.iter_batches(_CHUNK, row_groups=[shard]):
                    yield _Chunk(shard, rows)

    def _embed_chunk(self, chunk: _Chunk) -> _EmbeddedChunk:
        """Embeds some rows, in a thread."""
        values = chunk.rows.column(_EMBEDDED).to_pylist()
        results: dict[int, _RowResult] = {}
        inputs: dict[int, Any] = {}
        errors = []
        for row, value in enumerate(values):
            try:
                inputs[row] = self._input(value)
            except ImageError as error:
                results[row] = _RowResult(problem=error.reason)
                errors.append(error)
        check_some_reached(errors, len(values))
        if inputs:
            vectors = self._encode(list(inputs.values()))
            for row, vector in zip(inputs, vectors, strict=True):
                if np.isfinite(vector).all():
                    results[row] = _RowResult(vector=vector.astype(np.float32))
                else:
                    results[row] = _RowResult(problem="not finite")
        names = [name for name in chunk.rows.schema.names if name != _EMBEDDED]
        return _EmbeddedChunk(
            shard=chunk.shard,
            columns=chunk.rows.select(names),
            results=[results[row] for row in range(len(values))],
        )

    def _encode(self, inputs: list[Any]) -> np.ndarray:
        if self.input_kind == "images":
            return self.model.encode_resized(inputs)
        return self.model.encode_texts(inputs)

    def _input(self, value: bytes | None) -> np.ndarray | str:
        """Returns the pixels or the text to embed for the bytes of a row."""
        if self.input_kind == "captions":
            text = clean_caption((value or b"").decode())
            if not text:
                raise ImageError("empty caption", "no words")
            return text
        if not value:
            raise ImageError("missing", "no path")
        return decode_square(read_file(value)[0], self.model.resize_to).pixels

    def _write(
        self,
        path: pathlib.Path,
        columns: Sequence[Any],
        results: Sequence[_RowResult],
    ) -> None:
        """Writes a shard."""
        pa = arrow()
        table = pa.Table.from_batches(columns)
        vectors = [result.vector for result in results]
        problems = [result.problem for result in results]
        if self.request.format == "parquet":
            # A list of variable size, because Arrow can't read null back in lists of
            # fixed size.
            vector_type = pa.list_(pa.float32())
            table = table.append_column("embedding", pa.array(vectors, vector_type))
            table = table.append_column("problem", pa.array(problems, pa.string()))
            with atomic_path(path) as temporary:
                pa.parquet.write_table(table, temporary, compression="zstd")
            return
        with atomic_write(path.with_suffix(".jsonl")) as lines:
            for row, problem in zip(table.to_pylist(), problems, strict=True):
                if problem is not None:
                    row["problem"] = problem
                lines.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        missing = np.full(self.model.dimension, np.nan, np.float32)
        array = np.stack([missing if v is None else v for v in vectors])
        # Written last, because this file completes the shard.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)


def embed_shard(task: dict[str, Any]) -> None:
    """Embeds a shard: a task of `run_tasks`."""
    model = model_of_task(task["model"])
    request = _Request.from_json(task["request"])
    job = _Job(pathlib.Path(task["folder"]), request, model)
    job.embed([task["shard"]], 1)


def _count_rows(files: list[pathlib.Path]) -> Embedded:
    """Counts the rows and the problems of files that were written."""
    problems = collections.Counter(
        problem for file in files for problem in _problems(file)
    )
    num_rows = problems.total()
    named_problems = {
        problem: count for problem, count in problems.items() if problem is not None
    }
    return Embedded(num_rows, named_problems, files)


def _problems(file: pathlib.Path) -> Iterator[str | None]:
    """Yields the problem of each row, or None."""
    if file.suffix == ".npy":
        with open(file.with_suffix(".jsonl"), encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line).get("problem")
        return
    for row in read_rows(file, ["problem"]):
        yield row["problem"]


# === Sources ===


def _read_source(request: _Request) -> tuple[Any, str]:
    """Reads all rows of a source.

    Returns:
        The rows as an Arrow table with the column `_EMBEDDED`, and "images" or
        "captions".
    """
    source = request.source
    if is_folder(source):
        if request.of == "captions" or request.column:
            raise InputError(
                "`source` must be a table for `of` captions and for `column`. "
                f"Received: the folder {source}. Leave them out."
            )
        return _folder_table(source), "images"
    with local_copy(source) as copy:
        folder = os.path.dirname(source)
        return _read_file(copy, folder, request.of, request.column)


def _read_file(
    source: pathlib.Path, folder: str, input_kind: str | None, column: str | None
) -> tuple[Any, str]:
    """Reads a source that is a file. `folder` is that of the images of a table."""
    if not source.exists():
        raise InputError(f"`source` must exist. Received: {source}. Check the path.")
    readers: dict[str, Callable[[pathlib.Path], Any]] = {
        ".txt": _text_table,
        ".parquet": _parquet_table,
        **dict.fromkeys(TABLE_SUFFIXES, _table),
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise InputError(
            f"`source` must be a folder or end in {', '.join(sorted(readers))}. "
            f"Received: {source}. Rename or convert it."
        )
    table = reader(source)
    for name in (*_ADDED, _EMBEDDED):
        if name in table.column_names:
            raise InputError(
                f"`source` must not have the column {name!r}, which `embed` adds. "
                f"Received: {source}. Rename the column."
            )
    name, kind = _chosen_column(source, table.column_names, input_kind, column)
    return _with_embedded(table, name, kind, folder), kind


def _chosen_column(
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
                f"`column` must be one of {source.name}: {listed_names}. Received: "
                f"{column!r}. Name one of these columns."
            )
        guessed = "images" if column.lower() in IMAGE_COLUMNS else "captions"
        return column, input_kind or guessed
    by_lower = {name.lower(): name for name in reversed(names)}
    guesses = {"images": IMAGE_COLUMNS, "captions": CAPTION_COLUMNS}
    for embedded in EMBEDDING_INPUTS if input_kind is None else (input_kind,):
        for guess in guesses[embedded]:
            if guess in by_lower:
                return by_lower[guess], embedded
    raise InputError(
        f"`column` must name the column to embed of {source.name}, which has "
        f"{listed_names}. Name one of these columns."
    )


def _with_embedded(table: Any, name: str, input_kind: str, folder: str) -> Any:
    """Adds the column of the bytes to embed."""
    texts = table.column(name).to_pylist()
    for text in texts:
        if not isinstance(text, str | None):
            raise InputError(
                f"`column` must hold text. Received: {name!r} with {text!r:.80}. Name "
                "another column."
            )
    join = join_url if is_url(folder) else os.path.join
    values: list[bytes | None] = []
    for text in texts:
        if text is None:
            values.append(None)
        elif input_kind == "captions":
            values.append(text.encode())
        else:
            # An empty path stays empty, and the row gets the problem "missing".
            values.append(os.fsencode(join(folder, text.strip())) if text else b"")
    return table.append_column(_EMBEDDED, arrow().array(values, arrow().binary()))


def _folder_table(folder: str) -> Any:
    files = []
    for image in find_images(os.fsencode(folder)):
        if isinstance(image, UnreadFile):
            say(f"{printable(os.fsdecode(image.file))}: {image.reason}")
        else:
            files.append(image.file)
    paths = [printable(os.fsdecode(file)) for file in files]
    prefix = printable(os.path.join(folder, ""))
    ids = [path.replace(prefix, "", 1) for path in paths]
    embedded = arrow().array(files, arrow().binary())
    return arrow().table({"id": ids, "path": paths, _EMBEDDED: embedded})


def _text_table(source: pathlib.Path) -> Any:
    try:
        text = read_regular(source).decode("utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"`source` must be text in UTF-8. Received: {source}, which can't be read "
            f"({error}). Convert it."
        ) from None
    # splitlines() would also split at characters that captions may contain.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    captions = [line.removesuffix("\r") for line in lines]
    ids = list(range(1, len(captions) + 1))
    return arrow().table({"id": ids, "caption": captions})


def _parquet_table(source: pathlib.Path) -> Any:
    pyarrow = arrow()
    try:
        return pyarrow.parquet.read_table(source).replace_schema_metadata()
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"`source` must be Parquet. Received: {source}, which can't be read "
            f"({reason}). Write it again."
        ) from None


def _table(source: pathlib.Path) -> Any:
    """Reads a table of text as an Arrow table, and reports broken rows."""
    counter = DropCounter("rows")
    names, rows = read_table(source, "utf-8", counter)
    for reason, count in counter.bad.items():
        say(f"{count:,} left out: {reason} (such as {counter.examples.get(reason)})")
    return arrow().table(
        {name: _array([row.get(name) for row, _ in rows]) for name in names}
    )


def _array(values: list[Any]) -> Any:
    """Returns an Arrow column. Values of mixed types become JSON."""
    pa = arrow()
    plain = [printable(value) if isinstance(value, str) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values])

"""Embeds many images or captions to files, and goes on where a kill ended it.

The rows of the source are written down first, so that every run has the same; then one
shard after another is embedded, each complete when it has its name.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from align_keras.corpus.captions import clean_caption
from align_keras.corpus.drop_counter import DropCounter, printable
from align_keras.corpus.image import ImageError
from align_keras.corpus.pair_files import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    TABLE_SUFFIXES,
    read_table,
)
from align_keras.corpus.parquet_tables import arrow, read_rows
from align_keras.corpus.sources.files import is_folder
from align_keras.embedders import Embedder, load_model
from align_keras.embedders.locations import DEFAULT_MODEL
from align_keras.search.image_files import (
    check_some_reached,
    find_images,
    read_file,
    read_image,
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

FORMATS, KINDS = ("parquet", "npy"), ("images", "captions")
ROWS_PER_FILE = 4096
_VERSION = 1
_PLAN, _ROWS, _LOCK = "plan.json", "rows.parquet", ".embed.lock"
_TASKS = ".tasks"
# What is embedded of each row: the bytes of a path, or a text's. Not in the output.
_EMBEDDED = "align_keras:embedded"
_ADDED = ("embedding", "problem")
# Rows that a thread embeds before it hands them over.
_CHUNK = 16


@dataclasses.dataclass
class Embedded:
    """What `embed` wrote: rows, problem → how many rows have it, files in order."""

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
        check_choice("`of`", of, KINDS)
    check_choice("`format`", format, FORMATS)
    check_number("`rows_per_file`", rows_per_file, 1, 2**31 - 1, whole=True)
    is_cluster(engine)  # Raises for an unknown one.
    opened = load_model(model, runtime)
    source = os.fspath(source)
    if is_url(source):
        source = without_secrets(source)
    else:
        source = os.path.abspath(os.path.expanduser(source))
    asked = {
        "align_keras_embeddings": _VERSION,
        "source": source,
        "model": opened.fingerprint,
        "dimension": opened.dimension,
        "of": of,
        "column": column,
        "format": format,
        "rows_per_file": rows_per_file,
    }
    refuse_url(to, "`to`")
    to = pathlib.Path(to)
    if to.suffix.lower() == ".parquet":
        if format != "parquet":
            raise InputError(
                f"`to` must be a folder for {format} shards, received {to}; name one."
            )
        return _to_one_file(to, asked, opened, engine)
    return _to_folder(to, asked, opened, engine)


def _to_folder(to, asked, model, engine):
    with _held(to):
        job = _Job(to, asked, model)
        job.run(engine)
        (to / _ROWS).unlink(missing_ok=True)
        return _counted(job.shards())


def _to_one_file(to, asked, model, engine):
    """Embeds to shards beside the file, then makes it of them."""
    parts = to.with_name(to.name + ".parts")
    if to.exists():
        found = _plan_of_file(to)
        _check_same(to, found, asked)
        rows = arrow().parquet.read_metadata(to).num_rows
        _report_change(to, {"rows": rows, **found}, asked)
        shutil.rmtree(parts, ignore_errors=True)
        return _counted([to])
    with _held(parts):
        job = _Job(parts, asked, model)
        job.run(engine)
        pq, shards = arrow().parquet, job.shards()
        plan = {**asked, "source_digest": job.source_digest}
        about = {b"align_keras": json.dumps(plan).encode()}
        schema = pq.read_schema(shards[0]).with_metadata(about)
        with atomic_path(to) as path, pq.ParquetWriter(path, schema) as writer:
            for shard in shards:
                writer.write_table(pq.read_table(shard))
        shutil.rmtree(parts)
    return _counted([to])


@contextlib.contextmanager
def _held(folder):
    """Lets one process write a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"`to` must be a new folder or a file OUT.parquet, received {folder}, "
            "which is a file; name another."
        ) from None
    held = hold(folder / _LOCK)
    if held is None:
        raise InputError(
            f"`to` must be written by one process at a time, received {folder}, which "
            "another is writing; let it end, or name another folder."
        )
    with held:
        for left in folder.glob(".*.tmp"):  # By a kill.
            left.unlink()
        yield


def _check_same(to, found, asked):
    """Raises unless what is there was begun by the same call."""
    if "align_keras_embeddings" not in found:
        raise InputError(
            f"`to` must be new, received {to}, which holds something else; name "
            "another."
        )
    other = [name for name in asked if found.get(name) != asked[name]]
    if other:
        raise InputError(
            f"`to` must be new or of the same call, received {to}, whose {other[0]} is "
            f"{found.get(other[0])!r:.200} in place of {asked[other[0]]!r:.200}; name "
            "another, or remove it."
        )


def _report_change(to, found, asked):
    """Reports a source whose rows aren't those with which `to` was begun: `to` keeps
    those, so that its files belong together.
    """
    try:
        table, _ = _read_source(asked)
    except InputError:  # It isn't there any more, and its rows are written down.
        return
    digest = found.get("source_digest")
    if table.num_rows == found["rows"] and digest in (None, _digest(table)):
        return
    say(
        f"{printable(asked['source'])} has changed since {to} was begun: it had "
        f"{found['rows']:,} rows, and has {table.num_rows:,}; {to} has the former. To "
        "embed the latter, name another output."
    )


def _digest(table):
    """A digest of what is embedded of each row, in the order of the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.column(_EMBEDDED).chunks:
        for value in batch.to_pylist():
            content = b"" if value is None else value
            digest.update(b"%d %d " % (value is None, len(content)) + content)
    return digest.hexdigest()


def _plan_of_file(path):
    pyarrow = arrow()
    try:
        about = pyarrow.parquet.read_schema(path).metadata or {}
        return json.loads(about.get(b"align_keras", b"{}"))
    except (OSError, ValueError, pyarrow.ArrowInvalid):
        return {}


class _Job:
    """Shards of embeddings in a folder, of which some may be there."""

    def __init__(self, folder, asked, model):
        self.folder, self.asked, self.model = folder, asked, model
        found = read_json(folder / _PLAN)
        there = {one.name for one in folder.iterdir()} - {_ROWS, _LOCK, _TASKS}
        if there:
            _check_same(folder, found, asked)
            _report_change(folder, found, asked)
        else:
            found = self._begin()
        self.rows, self.of = found["rows"], found["embeds"]
        # None for what an earlier version has begun.
        self.source_digest = found.get("source_digest")
        self.size = asked["rows_per_file"]

    def _begin(self):
        """Writes down the source's rows, then the plan, by which they are complete."""
        table, of = _read_source(self.asked)
        if not table.num_rows:
            raise InputError(
                f"`source` must hold {of}, received {self.asked['source']}, which "
                "holds none; check it."
            )
        with atomic_path(self.folder / _ROWS) as temporary:
            # A group is a shard.
            size = self.asked["rows_per_file"]
            arrow().parquet.write_table(table, temporary, row_group_size=size)
        found = {
            **self.asked,
            "rows": table.num_rows,
            "embeds": of,
            "source_digest": _digest(table),
        }
        with atomic_write(self.folder / _PLAN) as file:
            file.write(json.dumps(found, indent=2) + "\n")
        return found

    def shards(self):
        suffix = self.asked["format"]
        count = -(-self.rows // self.size)
        return [self.folder / f"{number:05}.{suffix}" for number in range(count)]

    def run(self, engine):
        """Embeds the shards that are missing."""
        shards = self.shards()
        missing = [number for number, one in enumerate(shards) if not one.exists()]
        if not missing:
            return
        if not (self.folder / _ROWS).exists():
            raise InputError(
                f"`to` must be complete or go on, received {self.folder}, which lacks "
                f"{shards[missing[0]].name}; remove the folder to begin anew."
            )
        if not is_cluster(engine):
            self.embed(missing, os.cpu_count() or 1)
            return
        say(f"embedding: {len(missing):,} tasks on {engine}")
        about = {"folder": str(self.folder.absolute()), "asked": self.asked}
        about["model"] = self.model.reference()
        tasks = [{**about, "shard": number} for number in missing]
        # What is done is told by the shards that are there.
        shutil.rmtree(self.folder / _TASKS, ignore_errors=True)
        run_tasks(embed_shard, tasks, self.folder / _TASKS, engine=engine)
        shutil.rmtree(self.folder / _TASKS)

    def embed(self, missing, threads):
        """Embeds shards by threads of this process."""
        shards = self.shards()
        left = sum(min(self.size, self.rows - number * self.size) for number in missing)
        chunks = self._chunks(missing)
        vectors, columns = [], []
        with progress_bar("embedding", self.of, self.rows, self.rows - left) as bar:
            for number, table, found in in_order(self._embed, chunks, threads):
                columns.append(table)
                vectors += found
                bar.advance(len(found))
                end = min(self.size, self.rows - number * self.size)
                if len(vectors) == end:
                    self._write(shards[number], columns, vectors)
                    columns, vectors = [], []

    def _chunks(self, missing):
        """Yields (shard, rows) of the shards that aren't there, some rows at a time."""
        with arrow().parquet.ParquetFile(self.folder / _ROWS) as file:
            for number in missing:
                for batch in file.iter_batches(_CHUNK, row_groups=[number]):
                    yield number, batch

    def _embed(self, chunk):
        """Returns a chunk with a vector or a problem of each row, in a thread."""
        number, batch = chunk
        values = batch.column(_EMBEDDED).to_pylist()
        found = [None] * len(values)
        inputs, rows, errors = [], [], []
        for row, value in enumerate(values):
            try:
                inputs.append(self._input(value))
                rows.append(row)
            except ImageError as error:
                found[row] = error.reason
                errors.append(error)
        check_some_reached(errors, len(values))
        if inputs:
            images = self.of == "images"
            encode = self.model.encode_resized if images else self.model.encode_texts
            for row, vector in zip(rows, encode(inputs), strict=True):
                finite = np.isfinite(vector).all()
                found[row] = np.float32(vector) if finite else "not finite"
        names = [name for name in batch.schema.names if name != _EMBEDDED]
        return number, batch.select(names), found

    def _input(self, value):
        if self.of == "captions":
            text = clean_caption((value or b"").decode())
            if not text:
                raise ImageError("empty caption", "no words")
            return text
        if not value:
            raise ImageError("missing", "no path")
        return read_image(read_file(value)[0], self.model.resize_to).pixels

    def _write(self, path, batches, found):
        pa = arrow()
        table = pa.Table.from_batches(batches)
        good = [one if isinstance(one, np.ndarray) else None for one in found]
        problems = [one if isinstance(one, str) else None for one in found]
        if self.asked["format"] == "parquet":
            # Not of fixed size, which Arrow can't read back where one is null.
            kind = pa.list_(pa.float32())
            table = table.append_column("embedding", pa.array(good, kind))
            table = table.append_column("problem", pa.array(problems, pa.string()))
            with atomic_path(path) as temporary:
                pa.parquet.write_table(table, temporary, compression="zstd")
            return
        with atomic_write(path.with_suffix(".jsonl")) as file:
            for row, problem in zip(table.to_pylist(), problems, strict=True):
                row = row if problem is None else {**row, "problem": problem}
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        nothing = np.full(self.model.dimension, np.nan, np.float32)
        vectors = np.stack([nothing if one is None else one for one in good])
        # Last, for by it the shard is complete.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, vectors)


def embed_shard(task: dict) -> None:
    """Embeds a shard: a task of `run_tasks`."""
    model = model_of_task(task["model"])
    job = _Job(pathlib.Path(task["folder"]), task["asked"], model)
    job.embed([task["shard"]], 1)


def _counted(files):
    """Rows and problems of files that were written."""
    problems = collections.Counter(itertools.chain(*map(_problems, files)))
    rows = problems.total()
    del problems[None]
    return Embedded(rows, dict(problems), files)


def _problems(file):
    if file.suffix == ".npy":
        with open(file.with_suffix(".jsonl"), encoding="utf-8") as lines:
            yield from (json.loads(line).get("problem") for line in lines)
        return
    yield from (row["problem"] for row in read_rows(file, ["problem"]))


# === Sources ===


def _read_source(asked):
    """All rows of a source as a table, with `_EMBEDDED`, and what they are."""
    place, of = asked["source"], asked["of"]
    if is_folder(place):
        if of == "captions" or asked["column"]:
            raise InputError(
                f"`source` must be a table for `of` captions and `column`, received "
                f"the folder {place}; leave them out."
            )
        return _folder_table(place), "images"
    with local_copy(place) as copy:
        return _read_file(copy, os.path.dirname(place), of, asked["column"])


def _read_file(source, folder, of, column):
    """As `_read_source`, of a file; the images of a table lie in `folder`."""
    if not source.exists():
        raise InputError(f"`source` must exist, there is no {source}; check the path.")
    read = {".txt": _text_table, ".parquet": _parquet_table}
    read |= dict.fromkeys(TABLE_SUFFIXES, _table)
    if source.suffix.lower() not in read:
        raise InputError(
            f"`source` must be a folder or end in {', '.join(sorted(read))}, received "
            f"{source}; rename or convert it."
        )
    table = read[source.suffix.lower()](source)
    taken = [name for name in (*_ADDED, _EMBEDDED) if name in table.column_names]
    if taken:
        raise InputError(
            f"`source` must not have the column {taken[0]!r}, which is added; rename "
            f"it in {source}."
        )
    name, of = _chosen_column(source, table.column_names, of, column)
    return _with_embedded(table, name, of, folder), of


def _chosen_column(source, names, of, column):
    if column is not None:
        if column not in names:
            raise InputError(
                f"`column` must be one of {source.name}, received {column!r}; it has "
                f"{', '.join(map(repr, names[:20]))}."
            )
        guessed = "images" if column.lower() in IMAGE_COLUMNS else "captions"
        return column, of or guessed
    by_lower = {name.lower(): name for name in reversed(names)}
    guesses = {"images": IMAGE_COLUMNS, "captions": CAPTION_COLUMNS}
    for kind in KINDS if of is None else (of,):
        for guess in guesses[kind]:
            if guess in by_lower:
                return by_lower[guess], kind
    raise InputError(
        f"`column` must name what to embed of {source.name}, which has "
        f"{', '.join(map(repr, names[:20]))}; name one."
    )


def _with_embedded(table, name, of, folder):
    values = table.column(name).to_pylist()
    wrong = next((v for v in values if not isinstance(v, str | None)), None)
    if wrong is not None:
        raise InputError(
            f"`column` must hold text, received {name!r} with {wrong!r:.80}; name "
            "another."
        )
    if of == "images":
        join = join_url if is_url(folder) else os.path.join
        paths = (v and join(folder, v.strip()) for v in values)
        values = [None if path is None else os.fsencode(path) for path in paths]
    else:
        values = [None if value is None else value.encode() for value in values]
    return table.append_column(_EMBEDDED, arrow().array(values, arrow().binary()))


def _folder_table(folder):
    problems = []
    files = [one.file for one in find_images(os.fsencode(folder), problems)]
    for path, reason in problems:
        say(f"{printable(os.fsdecode(path))}: {reason}")
    texts = [printable(os.fsdecode(file)) for file in files]
    prefix = printable(os.path.join(folder, ""))
    ids = [text.replace(prefix, "", 1) for text in texts]
    columns = {"id": ids, "path": texts}
    return arrow().table({**columns, _EMBEDDED: arrow().array(files, arrow().binary())})


def _text_table(source):
    try:
        # Not splitlines(), which splits at characters that captions may hold.
        lines = read_regular(source).decode("utf-8").removeprefix("\ufeff").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"`source` must be text in UTF-8, {source} can't be read ({error}); "
            "convert it."
        ) from None
    if not lines[-1]:
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    return arrow().table({"id": list(range(1, len(lines) + 1)), "caption": lines})


def _parquet_table(source):
    pyarrow = arrow()
    try:
        return pyarrow.parquet.read_table(source).replace_schema_metadata()
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"`source` must be Parquet, {source} can't be read ({reason}); write it "
            "anew."
        ) from None


def _table(source):
    counter = DropCounter("rows")
    names, rows = read_table(source, "utf-8", counter)
    for reason, count in counter.bad.items():
        say(f"{count:,} left out: {reason} (such as {counter.examples.get(reason)})")
    return arrow().table(
        {name: _array([row.get(name) for row, _ in rows]) for name in names}
    )


def _array(values: list[Any]) -> Any:
    """A column of what a table holds; of mixed types each is written as JSON."""
    pa = arrow()
    plain = [printable(value) if isinstance(value, str) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values])

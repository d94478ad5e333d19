"""Reading and embedding of files, in threads or in the tasks of a cluster."""

import collections
import concurrent.futures
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.embedders.loading import worker_model
from align_keras.search.index.folder_files import TASKS
from align_keras.search.index.image_store import ImageStore
from align_keras.search.readers.image_files import (
    ImageFile,
    check_some_reached,
    content_hash,
    date_of,
    read_file,
)
from align_keras.search.readers.photos import decode_photo
from align_keras.search.update.changes import CLAIMED_ELSEWHERE, FileToEmbed
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import ImageError
from align_keras.utils.files import atomic_path
from align_keras.utils.progress import say
from align_keras.utils.tasks import check_same, run_tasks

# Number of files that a thread reads and embeds at a time.
FILES_PER_CHUNK = 8
# Number of files per task on a cluster.
_TASK_FILES = 256


def embedded_chunks(
    store: ImageStore, model: Embedder, files: list[FileToEmbed]
) -> Iterator[list[FileToEmbed]]:
    """Yields the files in chunks, in their order, after threads embedded them."""

    def read_chunk(chunk: list[FileToEmbed]) -> list[FileToEmbed]:
        claimed = store.claim([file.image_file for file in chunk])
        for file in chunk:
            if file.image_file.file not in claimed:
                file.reason = CLAIMED_ELSEWHERE
        claimed_files = [file for file in chunk if file.reason is None]
        _embed_files(claimed_files, model, store.ids_with_content)
        return chunk

    chunks = _split(files, FILES_PER_CHUNK)
    return map_in_order(read_chunk, chunks, os.cpu_count() or 1)


def blocks_from_cluster(
    store: ImageStore, model: Embedder, files: list[FileToEmbed], engine: str
) -> Iterator[list[FileToEmbed]]:
    """Yields the files in blocks that the tasks of a cluster have embedded."""
    folder = store.folder.absolute() / TASKS
    reference = {"model": model.reference()}
    blocks = _split(files, _TASK_FILES)
    tasks: list[dict[str, Any]] = []
    for block in blocks:
        names = [
            (os.fsdecode(image_file.file), image_file.size, image_file.mtime_ns)
            for image_file in (file.image_file for file in block)
        ]
        # The name of the result depends on the model and the files, so that a
        # resumed run reuses only the results of the same task.
        digest = hashlib.blake2b(repr([reference, names]).encode(), digest_size=12)
        to = str(folder / f"{digest.hexdigest()}.npy")
        tasks.append({**reference, "files": names, "to": to})
    say(f"indexing: {len(files):,} images, {len(tasks):,} tasks on {engine}")
    results = run_tasks(embed_files, tasks, folder, engine=engine)
    for block, task, result in zip(blocks, tasks, results, strict=True):
        _apply_results(store, block, result, np.load(task["to"]))
        yield block
    shutil.rmtree(folder)


def _apply_results(
    store: ImageStore,
    block: list[FileToEmbed],
    results: Sequence[Sequence[Any]],
    vectors: np.ndarray,
) -> None:
    """Copies the results of a task, fields of `_TaskResult`, to its files."""
    remaining_vectors = iter(vectors)
    for file, fields in zip(block, results, strict=True):
        result = _TaskResult(*fields)
        path = file.image_file.file
        file.image_file = ImageFile(path, result.size, result.mtime_ns)
        file.reason = result.reason
        file.detail = result.detail
        file.vector = None if result.reason else next(remaining_vectors)
        content = bytes.fromhex(result.content)
        file.columns = {**result.columns, "content": content}
        if store.ids_with_content(file.columns["content"]):
            file.vector = None


class _TaskResult(NamedTuple):
    """Result for a file in a task of a cluster. It is stored as a JSON list.

    Attributes:
        size: size of the file in bytes.
        mtime_ns: time of its last change in nanoseconds.
        reason: reason for which it has no embedding, or None.
        columns: columns of the image without the hash of the content.
        content: hash of the content in hexadecimal digits.
        detail: the problem in detail, or "".
    """

    size: int
    mtime_ns: int
    reason: str | None
    columns: dict[str, Any]
    content: str
    detail: str = ""


def model_of_task(reference: dict[str, Any]) -> Embedder:
    """Loads the model of a task.

    Raises:
        InputError: if the model on this machine has another fingerprint.
    """
    model = worker_model(
        reference["name"],
        reference.get("runtime", "auto"),
        reference.get("dimensions"),
    )
    check_same(reference["name"], model.fingerprint, reference["fingerprint"])
    return model


def embed_files(task: dict) -> list:
    """Embeds the files of a task of `run_tasks`.

    Args:
        task: dict with `model`, the `Embedder.reference`, `files`, a list of (name,
            size, mtime_ns), and `to`, the path of the NPY file for the vectors.

    Returns:
        One for each file.
    """
    model = model_of_task(task["model"])
    files = [
        FileToEmbed(ImageFile(os.fsencode(name), size, mtime_ns))
        for name, size, mtime_ns in task["files"]
    ]
    for chunk in _split(files, FILES_PER_CHUNK):
        _embed_files(chunk, model)
    vectors = [file.vector for file in files if file.reason is None]
    with atomic_path(task["to"]) as temporary, open(temporary, "wb") as opened:
        np.save(opened, np.array(vectors, np.float32).reshape(-1, model.dimension))
    results = []
    for file in files:
        content = file.columns.pop("content", b"").hex()
        results.append(
            _TaskResult(
                file.image_file.size,
                file.image_file.mtime_ns,
                file.reason,
                file.columns,
                content,
                file.detail,
            )
        )
    return results


def _embed_files(
    files: list[FileToEmbed],
    model: Embedder,
    is_stored: Callable[[bytes], object] = lambda content: False,
) -> None:
    """Reads and embeds files, and writes the results to their fields."""
    read, pixels, errors = [], [], []
    for file in files:
        try:
            content, file.image_file = read_file(file.image_file.file)
            file.columns = {"content": content_hash(content)}
            if file.image_file.captions is not None:
                captions = json.dumps(file.image_file.captions, ensure_ascii=False)
                file.columns["captions"] = captions
            # The index has an image with this content, whose embedding is used.
            if is_stored(file.columns["content"]):
                continue
            image = decode_photo(content, model.image_transform)
        except ImageError as error:
            file.reason = error.reason
            file.detail = error.detail
            errors.append(error)
            continue
        date = image.date
        if not date and not is_url(file.image_file.file):
            date = date_of(file.image_file.mtime_ns)
        file.columns |= {
            "width": image.width,
            "height": image.height,
            "date": date,
            "camera": image.camera,
        }
        read.append(file)
        pixels.append(image.pixels)
    check_some_reached(errors, len(files))
    if pixels:
        for file, vector in zip(read, model.encode_resized(pixels), strict=True):
            if np.isfinite(vector).all():
                file.vector = vector
            else:
                file.reason = "not finite"
                file.detail = "the embedding contains NaN or infinity"


def _split(values: list[FileToEmbed], size: int) -> list[list[FileToEmbed]]:
    """Splits a list into blocks of at most `size` files."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def map_in_order(work: Callable, chunks: Iterable, threads: int) -> Iterator:
    """Yields the results of `work` for chunks, in the order of the chunks.

    Args:
        work: function of a chunk.
        chunks: iterable of the chunks. At most about `2 * threads` chunks are read
            before their results are yielded.
        threads: number of threads.
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

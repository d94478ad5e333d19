"""Embeddings by a cluster: blocks of images or captions as tasks of `run_tasks`."""

import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from align_keras.protocols.embedding_cache import Item, content_digest, encoded
from align_keras.protocols.open_model import OpenedModel, open_model
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path
from align_keras.utils.tasks import check_same, run_tasks


def encode_on(
    engine: str,
    image_engine: str | None,
    model: OpenedModel,
    directory: pathlib.Path,
    kind: str,
    block: int,
) -> Callable[[Sequence[Item]], np.ndarray]:
    """Returns a function that embeds items on a cluster, `block` a task, as `encoded`
    does here; items and embeddings lie in `directory` meanwhile, on a shared disk.
    """
    path = checked_path(model, "engine")
    about = {
        "model": path,
        "fingerprint": _fingerprint(model, kind),
        "image_engine": image_engine and absolute(image_engine),
        "kind": kind,
    }
    folder = directory.absolute() / "tasks"

    def encode(items):
        folder.mkdir(exist_ok=True)
        tasks = []
        for at in range(0, len(items), block):
            part = items[at : at + block]
            digest = hashlib.blake2b(digest_size=12)
            for item in part:
                digest.update(content_digest(item))
            place = folder / digest.hexdigest()
            with atomic_path(f"{place}.npz") as temporary:
                with open(temporary, "wb") as file:
                    np.savez(file, **dict(_as_arrays(part)))
            tasks.append({**about, "place": str(place)})
        run_tasks(embed_block, tasks, folder, engine=engine)
        blocks = [np.load(f"{task['place']}.npy") for task in tasks]
        shutil.rmtree(folder)
        width = max(rows.shape[1] for rows in blocks)
        # Where a block's items are all refused, its width isn't known.
        return np.concatenate(
            [np.broadcast_to(rows, (len(rows), width)) for rows in blocks]
        )

    return encode


def embed_block(task: dict) -> None:
    """Embeds the items in a file: a task of `run_tasks`."""
    model = open_same(task["model"], task["image_engine"])
    check_same(task["model"], _fingerprint(model, task["kind"]), task["fingerprint"])
    encode = getattr(model, f"encode_{task['kind']}")
    with np.load(f"{task['place']}.npz") as stored:
        items = [_as_item(name, stored[name]) for name in stored.files]
    with atomic_path(f"{task['place']}.npy") as temporary:
        with open(temporary, "wb") as file:
            np.save(file, encoded(encode, items))


def checked_path(model: OpenedModel, option: str) -> str:
    """Returns the path by which other processes open a model, or raises."""
    if model.path is None:
        raise InputError(
            f"model must be a path with `{option}`, whose processes open it again, "
            f"received a model in memory; save it, or leave `{option}` out."
        )
    return absolute(model.path)


def absolute(path: str) -> str:
    """Returns a path as workers elsewhere open it; a name stays as it is."""
    return os.path.abspath(path) if os.path.exists(path) else path


@functools.lru_cache(maxsize=1)
def open_same(path: str, image_engine: str | None = None) -> OpenedModel:
    """Opens a model once for all tasks of a worker."""
    return open_model(path, image_engine)


def _fingerprint(model, kind):
    return model.image_fingerprint if kind == "images" else model.text_fingerprint


def _as_arrays(items):
    """Yields a name, which tells the item's kind, and an array of each."""
    for number, item in enumerate(items):
        if isinstance(item, np.ndarray):
            yield f"pixels{number}", item
            continue
        if isinstance(item, pathlib.Path):
            kind, content = "path", os.fsencode(item.absolute())
        elif isinstance(item, str):
            kind, content = "text", item.encode("utf-8", "surrogatepass")
        else:
            kind, content = "file", item
        yield f"{kind}{number}", np.frombuffer(content, np.uint8)


def _as_item(name, array):
    if name.startswith("pixels"):
        return array
    content = array.tobytes()
    if name.startswith("path"):
        return pathlib.Path(os.fsdecode(content))
    if name.startswith("text"):
        return content.decode("utf-8", "surrogatepass")
    return content

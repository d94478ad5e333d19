"""Proof that an export stands alone: it embeds and searches without this package.

`check_standalone` runs this file as a script, in which an import of align_keras fails.
"""

import sys

if __name__ == "__main__":
    # Any import of the package from here on raises ModuleNotFoundError.
    sys.modules["align_keras"] = None  # type: ignore[assignment]

import importlib.util
import json
import os
import pathlib
import sqlite3
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

_PACKAGE = "align_keras"
_BATCH, _HITS = 64, 5
# What an entry may differ by: that of float32 on one kind of device.
_TOLERANCE = 1e-4
# Signature, its input and its output, as the export writes them.
_IMAGES = ("encode_image", "image_bytes", "image_embedding")
_TEXTS = ("encode_text", "captions", "text_embedding")


def check_standalone(
    export: str | os.PathLike,
    *,
    images: Sequence[bytes] = (),
    image_embeddings: np.ndarray | None = None,
    captions: Sequence[str] = (),
    text_embeddings: np.ndarray | None = None,
    index: str | os.PathLike | None = None,
    queries: Sequence[str] = (),
    timeout: float = 300,
) -> dict[str, Any]:
    """Embeds and searches in a fresh process that cannot import align_keras.

    It must arrive at the given embeddings, (images, d) and (captions, d).

    Returns:
        dict: `max_abs_difference` (float, or None where nothing was compared),
        `images`, `captions` (int), `align_keras_importable` (False) and `top`,
        a list of `{"query", "hits": [{"rank", "score", "id", "captions"}]}`.

    Raises:
        InputError: when there is no such export.
        RuntimeError: when the process fails, or its embeddings differ.
    """
    from align_keras.embedders.locations import find_saved_model
    from align_keras.utils.errors import InputError

    export = find_saved_model(export)
    if queries and index is None:
        raise InputError(
            "`index` must be given with `queries`, received None; name its folder."
        )
    asked = {"export": os.path.abspath(export), "captions": list(captions)}
    if queries:
        asked |= {"index": os.path.abspath(index or ""), "queries": list(queries)}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        (folder / "asked.json").write_text(json.dumps(asked), "utf-8")
        (folder / "images").mkdir()
        for position, content in enumerate(images):
            (folder / "images" / f"{position:06d}").write_bytes(content)
        expected = {"images": image_embeddings, "captions": text_embeddings}
        for name, embeddings in expected.items():
            if embeddings is not None:
                np.save(folder / name, np.asarray(embeddings, np.float32))
        try:
            process = subprocess.run(
                # -I leaves out the environment's paths and the working folder.
                [sys.executable, "-I", __file__, place],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"The export {export} gave no answer in a process of its own within "
                f"{timeout:g} seconds; raise `timeout` on a busy machine."
            ) from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"The export {export} failed in a process of its own: {lines[-1]}"
        )
    result = json.loads(process.stdout)
    difference = result["max_abs_difference"]
    # Written so that NaN fails too.
    if difference is not None and not difference <= _TOLERANCE:
        raise RuntimeError(
            f"The export {export} must return the given embeddings within "
            f"{_TOLERANCE:g}, but differs by {difference:g}; its preprocessing, "
            "tokenizer or weights aren't the model's."
        )
    return result


# === The script ===


def _work(folder: pathlib.Path) -> dict[str, Any]:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401, registers the tokenizer's ops

    asked = json.loads((folder / "asked.json").read_text("utf-8"))
    signatures = tf.saved_model.load(asked["export"]).signatures

    def embed(signature: tuple[str, str, str], items: list[Any]) -> np.ndarray:
        name, argument, output = signature
        batches = []
        for start in range(0, len(items), _BATCH):
            batch = tf.constant(items[start : start + _BATCH], tf.string)
            found = signatures[name](**{argument: batch})
            if not np.all(found.get("valid", True)):
                first = start + int(np.argmin(found["valid"]))
                raise ValueError(f"{argument} {first} is no image")
            batches.append(np.asarray(found[output], np.float32))
        return np.concatenate(batches)

    files = sorted((folder / "images").iterdir())
    result: dict[str, Any] = {"top": []}
    differences = []
    for name, signature, items in (
        ("images", _IMAGES, [file.read_bytes() for file in files]),
        ("captions", _TEXTS, asked["captions"]),
    ):
        result[name] = len(items)
        expected = folder / f"{name}.npy"
        if items:
            embeddings = embed(signature, items)
            if expected.exists():
                differences.append(_difference(embeddings, np.load(expected)))
    # Not-a-number, if one is.
    largest = float(np.max(differences)) if differences else None
    result["max_abs_difference"] = largest
    if "queries" in asked:
        embeddings = embed(_TEXTS, asked["queries"])
        result["top"] = _top(asked["queries"], embeddings, pathlib.Path(asked["index"]))
    known = importlib.util.find_spec(_PACKAGE)
    return {**result, "align_keras_importable": known is not None}


def _difference(embeddings: np.ndarray, expected: np.ndarray) -> float:
    if expected.shape != embeddings.shape:
        raise ValueError(
            f"the export must give embeddings of shape {expected.shape}, received "
            f"{embeddings.shape}"
        )
    return float(np.abs(embeddings - expected).max())


def _top(
    queries: list[str], embeddings: np.ndarray, index: pathlib.Path
) -> list[dict[str, Any]]:
    uri = (index / "images.sqlite").absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
    sql = "SELECT row, path, captions FROM images ORDER BY row"
    images = connection.execute(sql).fetchall()
    sql = "SELECT value FROM meta WHERE key = 'vectors'"
    (vectors_file,) = connection.execute(sql).fetchone()
    connection.close()
    vectors = np.fromfile(index / vectors_file, "<f4")
    vectors = vectors.reshape(-1, embeddings.shape[1])[[row for row, _, _ in images]]
    top = []
    for query, scores in zip(queries, embeddings @ vectors.T, strict=True):
        best = np.argsort(-scores, kind="stable")[:_HITS]
        hits = [
            {
                "rank": rank,
                "score": float(scores[place]),
                "id": images[place][1],
                "captions": json.loads(images[place][2] or "[]"),
            }
            for rank, place in enumerate(best, 1)
        ]
        top.append({"query": query, "hits": hits})
    return top


def main() -> int:
    """Runs the script on a folder that `check_standalone` wrote."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        print(json.dumps(_work(pathlib.Path(sys.argv[1]))))
    except Exception as error:  # Whatever it is, the caller wants one line of it.
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

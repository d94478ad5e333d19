"""Check that an exported model can embed and search without this package.

`check_standalone` runs this file as a script in which importing align_keras fails.
"""

import sys

if __name__ == "__main__":
    # Any import of the package from here on raises ModuleNotFoundError.
    sys.modules["align_keras"] = None  # type: ignore[assignment]

import contextlib
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
# Name of the request file in the temporary folder.
_REQUEST = "request.json"
_BATCH, _HITS = 64, 5
# Largest allowed difference between entries of float32 embeddings from the same kind of
# device.
_TOLERANCE = 1e-4
# Names of an exported signature, its input and its output.
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
    """Embeds and searches in a new process that cannot import align_keras.

    Args:
        export: path of the exported SavedModel.
        images: sequence of bytes, contents of image files to embed.
        image_embeddings: float32 (images, d), expected embeddings, or None to skip the
            comparison.
        captions: sequence of str, captions to embed.
        text_embeddings: float32 (captions, d), expected embeddings, or None to skip the
            comparison.
        index: path of an index to search with `queries`.
        queries: sequence of str, texts to search for.
        timeout: float, seconds after which the process is stopped.

    Returns:
        dict with these entries. `max_abs_difference` is a float, or None if no
        embeddings were compared. `images` and `captions` are the numbers of embedded
        inputs. `align_keras_importable` is False. `top` is a list of `{"query",
        "hits": [{"rank", "score", "id", "captions"}]}`.

    Raises:
        InputError: if the export does not exist, or `queries` has no `index`.
        RuntimeError: if the process fails, or its embeddings differ from the expected
            embeddings.
    """
    from align_keras.embedders.locations import find_saved_model
    from align_keras.utils.errors import InputError

    export = find_saved_model(export)
    if queries and index is None:
        raise InputError(
            "`index` must be set together with `queries`. Received: index=None. Pass "
            "the folder of the index."
        )
    request = {"export": os.path.abspath(export), "captions": list(captions)}
    if queries:
        request |= {"index": os.path.abspath(index or ""), "queries": list(queries)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / _REQUEST).write_text(json.dumps(request), "utf-8")
        (folder / "images").mkdir()
        for position, content in enumerate(images):
            (folder / "images" / f"{position:06d}").write_bytes(content)
        expected = {"images": image_embeddings, "captions": text_embeddings}
        for name, embeddings in expected.items():
            if embeddings is not None:
                np.save(folder / name, np.asarray(embeddings, np.float32))
        try:
            process = subprocess.run(
                # -I ignores $PYTHONPATH and the working folder.
                [sys.executable, "-I", __file__, temporary],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"The export {export} did not finish in a separate process within "
                f"{timeout:g} seconds. Increase `timeout` on a busy machine."
            ) from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"The export {export} failed in a separate process: {lines[-1]}"
        )
    result = json.loads(process.stdout)
    difference = result["max_abs_difference"]
    # The comparison is False for NaN, which therefore also raises an error.
    if difference is not None and not difference <= _TOLERANCE:
        raise RuntimeError(
            f"The export {export} must return the expected embeddings within "
            f"{_TOLERANCE:g}. Received: a difference of {difference:g}. Its "
            "preprocessing, tokenizer or weights differ from those of the model. "
            "Export the model again."
        )
    return result


# === The script ===


def _run_request(folder: pathlib.Path) -> dict[str, Any]:
    """Runs the request in a folder and returns the result of `check_standalone`."""
    import tensorflow as tf

    # This import registers the operations of the tokenizer. SavedModels that only embed
    # images load without them. The operations may not load beside this TensorFlow.
    with contextlib.suppress(ImportError, tf.errors.OpError):
        import tensorflow_text  # noqa: F401

    request = json.loads((folder / _REQUEST).read_text("utf-8"))
    signatures = tf.saved_model.load(request["export"]).signatures

    def embed(signature: tuple[str, str, str], items: list[Any]) -> np.ndarray:
        name, argument, output = signature
        batches = []
        for start in range(0, len(items), _BATCH):
            batch = tf.constant(items[start : start + _BATCH], tf.string)
            outputs = signatures[name](**{argument: batch})
            if not np.all(outputs.get("valid", True)):
                first = start + int(np.argmin(outputs["valid"]))
                raise ValueError(f"{argument} {first} is not a valid image")
            batches.append(np.asarray(outputs[output], np.float32))
        return np.concatenate(batches)

    files = sorted((folder / "images").iterdir())
    result: dict[str, Any] = {"top": []}
    differences = []
    for name, signature, items in (
        ("images", _IMAGES, [file.read_bytes() for file in files]),
        ("captions", _TEXTS, request["captions"]),
    ):
        result[name] = len(items)
        expected = folder / f"{name}.npy"
        if items:
            embeddings = embed(signature, items)
            if expected.exists():
                differences.append(_difference(embeddings, np.load(expected)))
    # np.max returns NaN if one of the differences is NaN.
    largest = float(np.max(differences)) if differences else None
    result["max_abs_difference"] = largest
    if "queries" in request:
        queries = request["queries"]
        embeddings = embed(_TEXTS, queries)
        result["top"] = _search_index(
            queries, embeddings, pathlib.Path(request["index"])
        )
    spec = importlib.util.find_spec(_PACKAGE)
    return {**result, "align_keras_importable": spec is not None}


def _difference(embeddings: np.ndarray, expected: np.ndarray) -> float:
    if expected.shape != embeddings.shape:
        raise ValueError(
            f"The export must return embeddings of shape {expected.shape}. Received: "
            f"shape {embeddings.shape}."
        )
    return float(np.abs(embeddings - expected).max())


def _search_index(
    queries: list[str], embeddings: np.ndarray, index: pathlib.Path
) -> list[dict[str, Any]]:
    uri = (index / "images.sqlite").absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
    sql = "SELECT row, path, captions FROM images ORDER BY row"
    images = connection.execute(sql).fetchall()
    sql = "SELECT value FROM meta WHERE key = 'vectors'"
    (vectors_file,) = connection.execute(sql).fetchone()
    connection.close()
    if not vectors_file.endswith(".f32"):
        raise ValueError(
            f"The index must have float32 vectors. Received: {vectors_file}. Run "
            f"`align-keras index --index {index} --vectors float32`."
        )
    vectors = np.fromfile(index / vectors_file, "<f4")
    vectors = vectors.reshape(-1, embeddings.shape[1])[[row for row, _, _ in images]]
    top = []
    for query, scores in zip(queries, embeddings @ vectors.T, strict=True):
        best = np.argsort(-scores, kind="stable")[:_HITS]
        hits = [
            {
                "rank": rank,
                "score": float(scores[position]),
                "id": images[position][1],
                "captions": json.loads(images[position][2] or "[]"),
            }
            for rank, position in enumerate(best, 1)
        ]
        top.append({"query": query, "hits": hits})
    return top


def main() -> int:
    """Runs the script on a folder that `check_standalone` wrote."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        print(json.dumps(_run_request(pathlib.Path(sys.argv[1]))))
    except Exception as error:  # The parent process reports the last line of stderr.
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

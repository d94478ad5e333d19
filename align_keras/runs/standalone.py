"""Check that an exported model embeds the same without this package.

`check_standalone` runs this file as a script in which importing align_keras fails.
"""

import sys

if __name__ == "__main__":
    # Any import of the package from here on raises ModuleNotFoundError.
    sys.modules["align_keras"] = None  # type: ignore[assignment]

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

# Name of the request file in the temporary folder.
_REQUEST = "request.json"
_BATCH = 64
# Largest allowed difference between entries of float32 embeddings from the same kind of
# device.
_TOLERANCE = 1e-4
# Seconds after which the process is stopped.
_TIMEOUT = 300
# Names of an exported signature, its input and its output.
_IMAGES = ("encode_image", "image_bytes", "image_embedding")
_TEXTS = ("encode_text", "captions", "text_embedding")


def check_standalone(
    export: str | os.PathLike,
    *,
    images: Sequence[bytes],
    image_embeddings: np.ndarray,
    captions: Sequence[str],
    text_embeddings: np.ndarray,
) -> float:
    """Compares the embeddings of an export in a process without align_keras.

    Args:
        export: path of the exported SavedModel.
        images: sequence of bytes, contents of image files to embed.
        image_embeddings: float32 (images, d), expected embeddings.
        captions: captions to embed.
        text_embeddings: float32 (captions, d), expected embeddings.

    Returns:
        float, largest difference between two entries.

    Raises:
        RuntimeError: if the process fails, or its embeddings differ from the expected
            embeddings.
    """
    from align_keras.embedders.locations import find_saved_model

    export = find_saved_model(export)
    request = {"export": os.path.abspath(export), "captions": list(captions)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / _REQUEST).write_text(json.dumps(request), "utf-8")
        (folder / "images").mkdir()
        for position, content in enumerate(images):
            (folder / "images" / f"{position:06d}").write_bytes(content)
        np.save(folder / "images.npy", np.asarray(image_embeddings, np.float32))
        np.save(folder / "captions.npy", np.asarray(text_embeddings, np.float32))
        process = subprocess.run(
            # -I ignores $PYTHONPATH and the working folder.
            [sys.executable, "-I", __file__, temporary],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
        )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"The export {export} failed in a separate process: {lines[-1]}"
        )
    difference = float(json.loads(process.stdout))
    # The comparison is False for NaN, which therefore also raises an error.
    if not difference <= _TOLERANCE:
        raise RuntimeError(
            f"The export {export} must return the expected embeddings within "
            f"{_TOLERANCE:g}. Received: a difference of {difference:g}. Its "
            "preprocessing, tokenizer or weights differ from those of the model. "
            "Export the model again."
        )
    return difference


# === The script ===


def _run_request(folder: pathlib.Path) -> float:
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
            batches.append(np.asarray(outputs[output], np.float32))
        return np.concatenate(batches)

    images = [file.read_bytes() for file in sorted((folder / "images").iterdir())]
    differences = [
        _difference(embed(_IMAGES, images), np.load(folder / "images.npy")),
        _difference(
            embed(_TEXTS, request["captions"]), np.load(folder / "captions.npy")
        ),
    ]
    # np.max returns NaN if one of the differences is NaN.
    return float(np.max(differences))


def _difference(embeddings: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(embeddings - expected).max())


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

"""Runs the stand-alone script on an export and judges its answer."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.search.exported_model import ExportedModel
from align_keras.utils.errors import InputError

_SCRIPT = pathlib.Path(__file__).with_name("standalone.py")


def check_standalone(
    export: str | os.PathLike,
    *,
    images: Sequence[bytes] = (),
    image_embeddings: np.ndarray | None = None,
    captions: Sequence[str] = (),
    text_embeddings: np.ndarray | None = None,
    index: str | os.PathLike | None = None,
    queries: Sequence[str] = (),
    k: int = 5,
    tolerance: float = 1e-4,
    timeout: float = 300,
) -> dict[str, Any]:
    """Embeds and searches in a fresh process that cannot import align_keras.

    Images are bytes; the process must arrive at the given embeddings, (images, d) and
    (captions, d), within `tolerance` an entry: 1e-4 suits float32 on one kind of
    device.

    Returns:
        dict: `max_abs_difference` (float, or None where nothing was compared),
        `images`, `captions` (int), `align_keras_importable` (False) and `top`,
        a list of `{"query", "hits": [{"rank", "score", "id", "captions"}]}`.

    Raises:
        InputError: when there is no such export.
        RuntimeError: when the process fails, or its embeddings differ.
    """
    export = ExportedModel.find(export)
    if queries and index is None:
        raise InputError("`index` must be given with `queries`, got None.")
    with tempfile.TemporaryDirectory() as folder:
        command = _command(
            pathlib.Path(folder), export, images, image_embeddings, captions
        )
        if text_embeddings is not None:
            command += ["--text_embeddings", _saved(folder, "texts", text_embeddings)]
        if index is not None:
            command += ["--index", str(pathlib.Path(index).resolve()), "-k", str(k)]
        # With "=", so that a query may begin with a dash.
        command += [f"--query={query}" for query in queries]
        try:
            process = subprocess.run(
                command,
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
    if difference is not None and not difference <= tolerance:
        raise RuntimeError(
            f"The export {export} must return the given embeddings within "
            f"{tolerance:g}, but differs by {difference:g}; its preprocessing, "
            "tokenizer or weights aren't the model's."
        )
    return result


def _command(folder, export, images, image_embeddings, captions):
    # -I leaves out the environment's paths and the working folder.
    command = [sys.executable, "-I", str(_SCRIPT), "--json"]
    command += ["--export", str(pathlib.Path(export).resolve())]
    if len(images):
        (folder / "images").mkdir()
        for position, content in enumerate(images):
            (folder / "images" / f"{position:06d}").write_bytes(content)
        command += ["--images", str(folder / "images")]
    if image_embeddings is not None:
        command += ["--image_embeddings", _saved(folder, "images", image_embeddings)]
    if len(captions):
        (folder / "captions.json").write_text(json.dumps(list(captions)), "utf-8")
        command += ["--captions", str(folder / "captions.json")]
    return command


def _saved(folder, name, embeddings):
    path = pathlib.Path(folder) / f"{name}.npy"
    np.save(path, np.asarray(embeddings, np.float32))
    return str(path)

"""Calls of an export through TensorFlow's C API in a separate process."""

import importlib.util
import io
import pathlib
import pickle
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.export.export_inputs import sample_image_files

SCRIPT = pathlib.Path(__file__).with_name("c_api_script.py")
# Absolute tolerance of embeddings. Keras and a session of the C API fuse float32
# operations in different ways.
TOLERANCE = 1e-6


def strings(values):
    array = np.empty(len(values), object)
    array[:] = [v.encode() if isinstance(v, str) else v for v in values]
    return array


def text_operations():
    """Returns the libraries of tensorflow-text, which models with texts need."""
    text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
    libraries = sorted(map(str, text.glob("python/ops/*.so")))
    assert libraries
    return libraries


def call(folder, name, calls):
    """Calls signatures of a model in a new process.

    Args:
        folder: folder that contains the folder `export`.
        name: `"image"`, `"text"` or `"align"`.
        calls: list of (signature, inputs).

    Returns:
        list of (outputs or error message, memory after the call).
    """
    libraries = [] if name == "image" else text_operations()
    result = subprocess.run(
        [sys.executable, SCRIPT, folder / "export" / name / "1", *libraries],
        input=pickle.dumps(calls),
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr.decode(errors="replace")[-2000:]
    return pickle.loads(result.stdout)


def call_outputs(folder, name, calls):
    """Returns the outputs or the error message of each call."""
    return [outputs for outputs, _ in call(folder, name, calls)]


def blank_image_file(format, size, mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format)
    return buffer.getvalue()


def image_files_of_all_formats():
    """Returns one image file of each format. The third file is a JPEG."""
    return [*sample_image_files(), blank_image_file("WEBP", (70, 60))]

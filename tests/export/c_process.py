"""Calls an export through TensorFlow's C API, in a process without its Python."""

import importlib.util
import io
import pathlib
import pickle
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.export.exported import pictures

SCRIPT = pathlib.Path(__file__).with_name("c_api_script.py")
# Keras and the server's session fold and fuse float32 operations in different ways.
TOLERANCE = 1e-6


def strings(values):
    array = np.empty(len(values), object)
    array[:] = [v.encode() if isinstance(v, str) else v for v in values]
    return array


def text_operations():
    """The libraries that a model of captions needs."""
    text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
    libraries = sorted(map(str, text.glob("python/ops/*.so")))
    assert libraries
    return libraries


def call(folder, name, calls):
    """Answers calls of a model in a fresh process: outputs or error, and memory."""
    libraries = [] if name == "image" else text_operations()
    result = subprocess.run(
        [sys.executable, SCRIPT, folder / "export" / name / "1", *libraries],
        input=pickle.dumps(calls),
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr.decode(errors="replace")[-2000:]
    return pickle.loads(result.stdout)


def answers(folder, name, calls):
    return [answer for answer, _ in call(folder, name, calls)]


def picture(format, size, mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format)
    return buffer.getvalue()


def every_format():
    """Files that are pictures; the third is a JPEG."""
    return [*pictures(), picture("WEBP", (70, 60))]

"""Configuration files of TensorFlow Serving, and warm-up requests.

The server processes the warm-up requests before it accepts requests of clients.
"""

import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from align_keras.export.saved_model import SERVED_MODELS
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

VERSION = "1"
INSTALL = "pip install 'align-keras[serving]'"
_SOURCES = pathlib.Path(__file__).with_name("serving")
# Names end in .txt if no rule for package data covers them otherwise.
_SERVING = (
    "models.config.txt",
    "batching.config.txt",
    "monitoring.config.txt",
    "Dockerfile.txt",
    "compose.yaml",
    "kubernetes.yaml",
    "client_rest.py",
    "client_grpc.py",
)
# `align` has no batching, since the server refuses batches whose inputs have different
# numbers of rows, such as images and captions.
_BATCHING = {
    "image": "batching_params_image.pbtxt.txt",
    "text": "batching_params_text.pbtxt.txt",
}

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
# Rows of the requests. TensorFlow's kernels use different code for one and for several.
WARM_UP_ROWS = (1, 8)
_CAPTIONS = (
    "a red bicycle in front of a white house",
    "dog",
    "Crème brûlée, ½ price: 3,50 €",
    "an old photograph of three people who sit on a bench by the sea and look at "
    "the ships, while a fourth, whom nobody can see, holds the camera",
    "北京的冬天",
)
_TEMPLATES = ("a photo of a {}", "art of the {}")


def write_serving_files(folder: str | os.PathLike) -> None:
    """Adds the files that TensorFlow Serving 2.20 needs to an export.

    - `serving/`: models.config, batching.config, monitoring.config, Dockerfile,
      compose.yaml, kubernetes.yaml, client_rest.py and client_grpc.py.
    - `image/1` and `text/1`: batching_params.pbtxt.
    - each model: warm-up requests, if tensorflow-serving-api is installed.
    """
    folder = pathlib.Path(folder)
    models = {name: folder / name / VERSION for name in SERVED_MODELS}
    signatures = {name: _read_signatures(path) for name, path in models.items()}
    # TensorFlow Serving has the version numbers of TensorFlow.
    minor = ".".join(importlib.metadata.version("tensorflow").split(".")[:2])
    serving = folder / "serving"
    serving.mkdir(exist_ok=True)
    for name in _SERVING:
        text = (_SOURCES / name).read_text(encoding="utf-8")
        text = text.replace("{version}", f"{minor}.0")
        (serving / name.removesuffix(".txt")).write_text(text, encoding="utf-8")
    for name, source in _BATCHING.items():
        shutil.copyfile(_SOURCES / source, models[name] / "batching_params.pbtxt")
    if importlib.util.find_spec("tensorflow_serving") is None:
        say(
            f"no warm-up requests for TensorFlow Serving; {INSTALL}, then "
            "export to another folder"
        )
        return
    for name, path in models.items():
        write_warm_up_requests(path, name, signatures[name])


def _read_signatures(model: pathlib.Path) -> dict[str, Any]:
    path = model / "signatures.json"
    if not (model / "saved_model.pb").is_file() or not path.is_file():
        raise InputError(
            "folder must hold image/1, text/1 and align/1 with saved_model.pb and "
            f"signatures.json, received {str(model)!r} without them; write them by "
            "export_saved_model first."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def write_warm_up_requests(
    model: pathlib.Path, name: str, signatures: dict[str, Any]
) -> None:
    """Writes requests for each signature of a SavedModel.

    The server processes them while it loads the model, so that kernels, memory and
    graphs are ready for the first request of a client.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    length = signatures["preprocessing"].get("text", {}).get("sequence_length")
    path = model / WARM_UP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, specs in signatures["signatures"].items():
            for count in WARM_UP_ROWS:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key in specs["inputs"]:
                    values = tf.make_tensor_proto(_example(key, count, length))
                    request.inputs[key].CopyFrom(values)
                log = prediction_log_pb2.PredictLog(request=request)
                record = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(record.SerializeToString())


def _example(key: str, count: int, length: int) -> np.ndarray:
    """Returns `count` rows for the input `key`."""
    if key == "image_bytes":
        return np.array([_file(row) for row in range(count)], object)
    if key == "images":
        return np.stack([_pixels(row, 160, 120) for row in range(count)])
    if key in ("captions", "class_names"):
        return np.resize(np.array(_CAPTIONS, object), count)
    if key == "templates":
        return np.array(_TEMPLATES, object)
    # The values of the ids don't matter. The rows have 2, 3, … tokens and padding.
    mask = np.arange(length) < np.arange(2, count + 2)[:, np.newaxis]
    return mask.astype(np.int32)


def _file(row: int) -> bytes:
    """Returns an image file. Rows have different sizes, and every fourth is a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(_pixels(row, 240 + 40 * row, 180 + 20 * row))
    image.save(buffer, "PNG" if row % 4 == 3 else "JPEG", quality=85)
    return buffer.getvalue()


def _pixels(row: int, width: int, height: int) -> np.ndarray:
    """Returns soft colors, which compress like photographs."""
    grid = np.random.default_rng(row).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)

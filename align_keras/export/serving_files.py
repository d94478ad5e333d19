"""What TensorFlow Serving needs beside the SavedModels, and warm-up requests.

The server answers the requests to itself before it answers others.
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

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

MODELS = ("image", "text", "align")
VERSION = "1"
INSTALL = "pip install 'align-keras[serving]'"
_SOURCES = pathlib.Path(__file__).with_name("serving")
# With .txt behind the names that no package data rule covers.
_SERVING = (
    *("models.config.txt", "batching.config.txt", "monitoring.config.txt"),
    *("Dockerfile.txt", "compose.yaml", "kubernetes.yaml"),
    *("client_rest.py", "client_grpc.py"),
)
# `align` has none: its signatures take as many captions as they like for an image,
# which the server's batching refuses.
_BATCHING = {
    "image": "batching_params_image.pbtxt.txt",
    "text": "batching_params_text.pbtxt.txt",
}

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
# One, and several: TensorFlow's kernels choose other ways for them.
COUNTS = (1, 8)
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
    """Writes what TensorFlow Serving 2.20 needs beside the SavedModels of an export.

    - `serving/`: models.config, batching.config, monitoring.config, Dockerfile,
      compose.yaml, kubernetes.yaml, client_rest.py and client_grpc.py.
    - `image/1` and `text/1`: batching_params.pbtxt.
    - each model: warm-up requests, where the package tensorflow-serving-api is there.
    """
    folder = pathlib.Path(folder)
    models = {name: folder / name / VERSION for name in MODELS}
    signatures = {name: _read_signatures(path) for name, path in models.items()}
    # TensorFlow Serving has TensorFlow's versions.
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


def _read_signatures(model):
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

    The server answers them while it loads the model, so that a client's first request
    finds kernels, memory and graphs ready.
    """
    # An extra of this package.
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    length = signatures["preprocessing"].get("text", {}).get("sequence_length")
    path = model / WARM_UP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, specs in signatures["signatures"].items():
            for count in COUNTS:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key in specs["inputs"]:
                    values = tf.make_tensor_proto(_example(key, count, length))
                    request.inputs[key].CopyFrom(values)
                log = prediction_log_pb2.PredictLog(request=request)
                record = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(record.SerializeToString())


def _example(key, count, length):
    """Returns `count` rows for the input `key`."""
    if key == "image_bytes":
        return np.array([_file(row) for row in range(count)], object)
    if key == "images":
        return np.stack([_pixels(row, 160, 120) for row in range(count)])
    if key in ("captions", "class_names"):
        return np.resize(np.array(_CAPTIONS, object), count)
    if key == "templates":
        return np.array(_TEMPLATES, object)
    # Any ids are as good as others. Rows of 2, 3, … tokens, the rest padding.
    mask = np.arange(length) < np.arange(2, count + 2)[:, np.newaxis]
    return mask.astype(np.int32)


def _file(row):
    """An image as a file, of another size each; every fourth is a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(_pixels(row, 240 + 40 * row, 180 + 20 * row))
    image.save(buffer, "PNG" if row % 4 == 3 else "JPEG", quality=85)
    return buffer.getvalue()


def _pixels(row, width, height):
    """Soft colors, which compress as photographs do."""
    grid = np.random.default_rng(row).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)

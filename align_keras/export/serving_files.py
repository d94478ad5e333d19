"""Configuration files and warm-up requests for TensorFlow Serving."""

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
from align_keras.utils.progress import say

VERSION = "1"
INSTALL = "pip install 'align-keras[serving]'"
_SOURCES = pathlib.Path(__file__).with_name("serving")
# Files for the folder `serving/` of an export. The suffix .txt makes setuptools include
# files of other types in the package, and is removed from the copies.
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
# Batching parameters of each model. The server does not batch `align`, since it rejects
# batches whose inputs have different numbers of rows, such as images and captions.
_BATCHING = {
    "image": "batching_params_image.pbtxt.txt",
    "text": "batching_params_text.pbtxt.txt",
}

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
# Numbers of rows in the warm-up requests. TensorFlow has different kernels for one row
# and for several rows.
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
    """Adds the files for TensorFlow Serving to an export.

    - `serving/` gets models.config, batching.config, monitoring.config, Dockerfile,
      compose.yaml, kubernetes.yaml, client_rest.py and client_grpc.py.
    - `image/1` and `text/1` get batching_params.pbtxt.
    - Each model gets warm-up requests if tensorflow-serving-api is installed.

    Args:
        folder: folder that `export_saved_model` wrote.
    """
    folder = pathlib.Path(folder)
    models = {name: folder / name / VERSION for name in SERVED_MODELS}
    # Versions of TensorFlow Serving equal those of TensorFlow.
    minor_version = ".".join(importlib.metadata.version("tensorflow").split(".")[:2])
    serving = folder / "serving"
    serving.mkdir(exist_ok=True)
    for name in _SERVING:
        text = (_SOURCES / name).read_text(encoding="utf-8")
        text = text.replace("{version}", f"{minor_version}.0")
        (serving / name.removesuffix(".txt")).write_text(text, encoding="utf-8")
    for name, source in _BATCHING.items():
        shutil.copyfile(_SOURCES / source, models[name] / "batching_params.pbtxt")
    if importlib.util.find_spec("tensorflow_serving") is None:
        say(
            "The export has no warm-up requests for TensorFlow Serving. To add them, "
            f"run {INSTALL} and export to another folder"
        )
        return
    for name, path in models.items():
        signatures = json.loads((path / "signatures.json").read_text(encoding="utf-8"))
        write_warm_up_requests(path, name, signatures)


def write_warm_up_requests(
    model: pathlib.Path, name: str, signatures: dict[str, Any]
) -> None:
    """Writes warm-up requests for each signature of a SavedModel.

    TensorFlow Serving processes them while it loads the model. The first request of a
    client then takes no extra time for kernels, memory and graphs.

    Args:
        model: folder of the SavedModel.
        name: name of the served model.
        signatures: content of its `signatures.json`.
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
                    values = tf.make_tensor_proto(_example_input(key, count, length))
                    request.inputs[key].CopyFrom(values)
                log = prediction_log_pb2.PredictLog(request=request)
                record = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(record.SerializeToString())


def _example_input(key: str, count: int, length: int) -> np.ndarray:
    """Returns `count` rows for the input `key`."""
    if key == "image_bytes":
        return np.array([_example_file(row) for row in range(count)], object)
    if key == "images":
        return np.stack([_example_pixels(row, 160, 120) for row in range(count)])
    if key in ("captions", "class_names"):
        return np.resize(np.array(_CAPTIONS, object), count)
    if key == "templates":
        return np.array(_TEMPLATES, object)
    # `key` is `token_ids` or `padding_mask`. The rows have 2, 3, … tokens before the
    # padding. The values of the ids do not matter, so the mask serves as ids too.
    mask = np.arange(length) < np.arange(2, count + 2)[:, np.newaxis]
    return mask.astype(np.int32)


def _example_file(row: int) -> bytes:
    """Returns an image file whose size depends on `row`. Every fourth file is a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(_example_pixels(row, 240 + 40 * row, 180 + 20 * row))
    image.save(buffer, "PNG" if row % 4 == 3 else "JPEG", quality=85)
    return buffer.getvalue()


def _example_pixels(row: int, width: int, height: int) -> np.ndarray:
    """Returns a smooth random image, which compresses like a photograph."""
    grid = np.random.default_rng(row).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)

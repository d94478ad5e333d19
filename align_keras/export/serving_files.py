"""What TensorFlow Serving needs beside the SavedModels, and warm-up requests."""

import importlib.metadata
import importlib.util
import json
import pathlib
import shutil

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

MODELS = ("image", "text", "align")
VERSION = "1"
INSTALL = "pip install 'align-keras[serving]'"
_SOURCES = pathlib.Path(__file__).with_name("serving")
# Not by their final names, which no package data rule covers.
_SERVING = {
    "models.config": "models.config.txt",
    "batching.config": "batching.config.txt",
    "monitoring.config": "monitoring.config.txt",
    "Dockerfile": "Dockerfile.txt",
    "compose.yaml": "compose.yaml",
    "kubernetes.yaml": "kubernetes.yaml",
    "client_rest.py": "client_rest.py",
    "client_grpc.py": "client_grpc.py",
}
# `align` has none: its signatures take as many captions as they like for a picture,
# which the server's batching refuses.
_BATCHING = {
    "image": "batching_params_image.pbtxt.txt",
    "text": "batching_params_text.pbtxt.txt",
}


def write_serving_files(folder):
    """Writes what TensorFlow Serving needs beside the SavedModels of an export.

    - `serving/`: models.config, batching.config and monitoring.config for the
      server's flags, Dockerfile, compose.yaml, kubernetes.yaml, and the clients
      client_rest.py and client_grpc.py.
    - `image/1` and `text/1`: batching_params.pbtxt.
    - each model: warm-up requests, where the package tensorflow-serving-api is
      installed; else a line on stderr says how to install it.

    Args:
        folder: str or `pathlib.Path`, the export: SavedModels with signatures.json in
            `image/1`, `text/1` and `align/1`.

    Raises:
        InputError: if a SavedModel or its signatures.json is missing.

    References:
        Olston et al. 2017, TensorFlow-Serving: Flexible, High-Performance ML
        Serving. The files' fields: tensorflow/serving 2.20.0, config/*.proto and
        servables/tensorflow/session_bundle_config.proto.
    """
    folder = pathlib.Path(folder)
    models = {name: folder / name / VERSION for name in MODELS}
    signatures = {name: _read_signatures(path) for name, path in models.items()}
    serving = folder / "serving"
    serving.mkdir(exist_ok=True)
    for name, source in _SERVING.items():
        text = (_SOURCES / source).read_text(encoding="utf-8")
        # TensorFlow Serving has TensorFlow's versions.
        text = text.replace("{version}", f"{tensorflow_minor()}.0")
        (serving / name).write_text(text, encoding="utf-8")
    for name, source in _BATCHING.items():
        shutil.copyfile(_SOURCES / source, models[name] / "batching_params.pbtxt")
    if importlib.util.find_spec("tensorflow_serving") is None:
        say(f"no warm-up requests for TensorFlow Serving; {INSTALL}, then export again")
        return
    from align_keras.export.warm_up import write_warm_up_requests

    for name, path in models.items():
        write_warm_up_requests(path, name, signatures[name])


def tensorflow_minor():
    """Returns the major and minor version of the TensorFlow that exports, a str."""
    version = importlib.metadata.version("tensorflow")
    return ".".join(version.split(".")[:2])


def _read_signatures(model):
    path = model / "signatures.json"
    if not (model / "saved_model.pb").is_file() or not path.is_file():
        raise InputError(
            "folder must hold image/1, text/1 and align/1 with saved_model.pb and "
            f"signatures.json, received {str(model)!r} without them; write them by "
            "export_saved_model first."
        )
    return json.loads(path.read_text(encoding="utf-8"))

"""Finds a model's files by its name, and the runtimes that can open them.

Nothing here imports TensorFlow, so that a wrong name is refused at once.
"""

import dataclasses
import importlib.util
import os
import pathlib

from align_keras.utils.errors import InputError
from align_keras.utils.files import refuse_keras_file
from align_keras.utils.shared_data import (
    SHIPPED_MODELS,
    find_shipped_model,
    shared_folder,
)

DEFAULT_MODEL = "align_small_en"
LITERT_FILES = {"image": "image.tflite", "text": "text.tflite"}
ONNX_FILES = {"image": "image.onnx", "text": "text.onnx"}
# They embed images for a Keras model, which embeds the texts.
IMAGE_RUNTIMES = ("openvino", "openvino_bfloat16")
RUNTIMES = ("auto", "keras", "saved_model", "litert", "onnx", *IMAGE_RUNTIMES)
RUNTIME_HELP = (
    f"what computes embeddings: {', '.join(RUNTIMES)}, or, for images, the model's "
    "image.tflite by align-keras export"
)
MODEL_HELP = (
    "align_small_en, a run folder, an export (SavedModel, LiteRT or ONNX), a preset "
    "or Hugging Face folder, or hf://user/model"
)
_HUB_PREFIX = "hf://"
# Package that a runtime needs, and the extra that installs it.
_PACKAGES = {
    "litert": ("ai_edge_litert", "litert"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "openvino_bfloat16": ("openvino", "openvino"),
}


@dataclasses.dataclass(frozen=True)
class ModelLocation:
    """Files that a model's name stands for.

    Attributes:
        name: str, opens the model again from any working folder.
        folder: path of the model's folder, or None for a name on Hugging Face's hub.
        runtimes: names of the runtimes that the folder has files for. The first is the
            one that `"auto"` stands for.
    """

    name: str
    folder: pathlib.Path | None
    runtimes: tuple[str, ...]


def locate_model(name: str | os.PathLike) -> ModelLocation:
    """Finds the files of a model, without TensorFlow.

    Args:
        name: as `load_model` takes it, except for models in memory.

    Returns:
        `ModelLocation`.

    Raises:
        InputError: if there is no model of this name.
    """
    name = os.fspath(name)
    if name.startswith(_HUB_PREFIX):
        return ModelLocation(name, None, ("keras",))
    if name in SHIPPED_MODELS:
        folder = find_shipped_model(name)
        return ModelLocation(name, folder, _runtimes_of(folder))
    refuse_keras_file(name, "model")
    folder = _folder_of(name)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(_not_a_model(name, problem))
    runtimes = _runtimes_of(folder)
    if not runtimes and (folder / "checkpoints").exists():
        raise InputError(
            f"model must be a finished run. Received: {name}, which has checkpoints "
            "and no config.json. Run the same train command again, which continues "
            "the run."
        )
    if not runtimes:
        files = "config.json, saved_model.pb, text.tflite or text.onnx"
        raise InputError(_not_a_model(name, f"has no {files}"))
    # Absolute, since a relative one may be equal to the name of an architecture.
    folder = pathlib.Path(os.path.abspath(folder))
    return ModelLocation(str(folder), folder, runtimes)


def choose_runtime(location: ModelLocation, runtime: str | os.PathLike = "auto") -> str:
    """Returns the runtime for a model, or raises if the model cannot run by it.

    Args:
        location: as `locate_model` returns it.
        runtime: as `load_model` takes it.

    Raises:
        InputError: if there is no such runtime, it is not installed, or the model has
            no files for it.
    """
    runtime = check_runtime(runtime)
    if runtime == "auto":
        runtime = location.runtimes[0]
    needed = "keras" if is_image_runtime(runtime) else runtime
    if needed not in location.runtimes:
        runtimes = " or ".join(location.runtimes)
        if "saved_model" in location.runtimes:
            remedy = "Name the run folder in place of its export."
        else:
            remedy = "Choose another runtime, or export the model for this one."
        raise InputError(
            f"runtime must be {runtimes} for the model {location.name}. Received: "
            f"runtime={runtime!r}. {remedy}"
        )
    check_installed(runtime)
    return runtime


def check_runtime(runtime: str | os.PathLike) -> str:
    """Returns the name of a runtime as str, or raises if there is none of this name."""
    runtime = os.fspath(runtime)
    if runtime in RUNTIMES:
        return runtime
    if runtime.endswith(".tflite"):
        if os.path.isfile(runtime):
            return os.path.abspath(runtime)
        raise InputError(
            f"runtime must be a file that exists. Received: {runtime!r}. Check the "
            "path, or write the file by `align-keras export litert`."
        )
    raise InputError(
        f"runtime must be one of {', '.join(RUNTIMES)} or the path of a .tflite file. "
        f"Received: runtime={runtime!r}. Choose one."
    )


def is_image_runtime(runtime: str) -> bool:
    """Returns True for runtimes that embed only the images of a Keras model."""
    return runtime in IMAGE_RUNTIMES or runtime.endswith(".tflite")


def check_installed(runtime: str) -> None:
    """Raises if the package that a runtime needs is not installed."""
    key = "litert" if runtime.endswith(".tflite") else runtime
    if key not in _PACKAGES:
        return
    package, extra = _PACKAGES[key]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"runtime={runtime!r} needs {package}, which is not installed. Run "
            f'`pip install "align-keras[{extra}]"`, or leave out `runtime`.'
        )


def keras_or_auto(model: str | os.PathLike) -> str:
    """Returns `"keras"` for a name whose model has Keras weights, else `"auto"`."""
    return "keras" if "keras" in locate_model(model).runtimes else "auto"


def find_saved_model(directory: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a SavedModel, or raises, without TensorFlow.

    Args:
        directory: a folder with `saved_model.pb`, or one that `export_saved_model`
            wrote, of which the newest `align/VERSION` is taken.
    """
    directory = pathlib.Path(directory)
    versions = [path.name for path in directory.glob("align/*") if path.is_dir()]
    newest = max(filter(str.isdecimal, versions), key=int, default=None)
    folder = directory if newest is None else directory / "align" / newest
    if not (folder / "saved_model.pb").is_file():
        problem = "has none" if directory.is_dir() else "does not exist"
        raise InputError(
            f"The export folder {directory} must hold a saved_model.pb, but {problem}. "
            "Give the folder `export` of a finished run."
        )
    return folder


def _folder_of(name: str) -> pathlib.Path:
    """Returns the folder of a name, which may be one in `saved_models`."""
    if not name or os.sep in name or os.path.isdir(name):
        return pathlib.Path(name or "''")
    return shared_folder(f"saved_models/{name}") or pathlib.Path(name)


def _runtimes_of(folder: pathlib.Path) -> tuple[str, ...]:
    """Returns the runtimes that a folder has files for, the preferred one first."""
    is_saved_model = (folder / "saved_model.pb").exists() or (folder / "align").is_dir()
    has_files = {
        "litert": (folder / LITERT_FILES["text"]).is_file(),
        "saved_model": is_saved_model,
        "keras": (folder / "config.json").exists(),
        "onnx": (folder / ONNX_FILES["text"]).is_file(),
    }
    return tuple(runtime for runtime, has in has_files.items() if has)


def _not_a_model(name: str, problem: str) -> str:
    return (
        f"model must be {', '.join(SHIPPED_MODELS)}, the folder of a run, a preset, an "
        f"export (SavedModel, LiteRT or ONNX), or hf://user/model. Received: {name!r}, "
        f"which {problem}. Check the name, or write an export by `align-keras export`."
    )

"""Locations of the files of models, and the runtimes that can open them.

This module does not import TensorFlow, so that errors about names appear immediately.
"""

import importlib.util
import os
import pathlib
from typing import NamedTuple

from align_keras.presets.open_clip_layout import is_open_clip
from align_keras.utils.addresses import is_hub_name
from align_keras.utils.arguments import check_choice, did_you_mean
from align_keras.utils.errors import (
    InputError,
    MissingExtraError,
    check_tensorflow,
    has_tensorflow,
)
from align_keras.utils.shared_data import (
    SHIPPED_MODELS,
    find_shipped_model,
    shared_folder,
)

DEFAULT_MODEL = "align_small_en"
LITERT_FILES = {"image": "image.tflite", "text": "text.tflite"}
ONNX_FILES = {"image": "image.onnx", "text": "text.onnx"}
# Runtimes for the images of a Keras model. Keras embeds the texts.
IMAGE_RUNTIMES = ("openvino", "openvino_bfloat16")
RUNTIMES = ("auto", "keras", "saved_model", "litert", "onnx", *IMAGE_RUNTIMES)
RUNTIME_HELP = (
    f"runtime that computes embeddings: {', '.join(RUNTIMES)}, or the path of an "
    "image.tflite of the model from `align-keras export litert`, which embeds only "
    "the images"
)
MODEL_HELP = (
    "model: align_small_en, a run folder, an export (SavedModel, LiteRT or ONNX), a "
    "preset folder, a .keras file, a Hugging Face folder, an open_clip model in ONNX "
    "(immich's layout), a KerasHub preset of CLIP or SigLIP, "
    "hf://user/model[@revision], or kaggle://user/model/keras/variation"
)
# Files by which a model is recognized, for messages.
_MODEL_FILES = (
    "config.json, saved_model.pb, text.tflite, text.onnx or textual/model.onnx"
)
# For each runtime, the package that it needs and the extra that installs the package.
# The package of LiteRT is always installed.
_PACKAGES = {
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "openvino_bfloat16": ("openvino", "openvino"),
}


class ModelLocation(NamedTuple):
    """Folder of a model and the runtimes that can open it.

    Attributes:
        name: name that opens the model from any working directory.
        folder: path of the folder of the model, or of its `.keras` file. The folder of
            a model on the Hugging Face Hub is in the cache, and may have no Keras
            weights.
        runtimes: names of the runtimes for which the folder has files. `"auto"` chooses
            the first.
    """

    name: str
    folder: pathlib.Path
    runtimes: tuple[str, ...]

    @property
    def preset(self) -> str | pathlib.Path:
        """Argument of `ALIGN.from_preset`, which downloads the weights of `hf://`."""
        return self.name if is_hub_name(self.name) else self.folder


def locate_model(name: str | os.PathLike) -> ModelLocation:
    """Returns the location of a model.

    The files of a model on the Hugging Face Hub are downloaded, except Keras weights.

    Args:
        name: name or folder of the model, as in `load_model`.

    Raises:
        InputError: if there is no such model.
    """
    name = os.fspath(name)
    if name.endswith(".keras") and os.path.isfile(name):
        file = pathlib.Path(os.path.abspath(name))
        return ModelLocation(str(file), file, ("keras",))
    full_name = name
    if is_hub_name(name):
        # Local models do not need this import.
        from align_keras.presets.hub import download

        folder = download(name, weights=False)
    elif name in SHIPPED_MODELS:
        folder = find_shipped_model(name)
    else:
        # A relative path may be equal to the name of an architecture, which
        # `from_preset` would build instead.
        full_name = os.path.abspath(_folder_of(name))
        folder = pathlib.Path(full_name)
    runtimes = _runtimes_of(folder)
    # The weights of a model on the Hub are not downloaded yet.
    may_be_foreign = runtimes == ("keras",) and not is_hub_name(name)
    if not runtimes or (may_be_foreign and _has_only_foreign_onnx(folder)):
        raise _not_a_model(name, folder)
    return ModelLocation(full_name, folder, runtimes)


def choose_runtime(location: ModelLocation, runtime: str | os.PathLike = "auto") -> str:
    """Returns the name of the runtime for a model.

    Args:
        location: `ModelLocation` of the model.
        runtime: name of a runtime or path of a file, as in `load_model`. `"auto"`
            chooses the first installed runtime for which the model has files.

    Raises:
        InputError: if the runtime is unknown or not installed, or if the model has no
            files for it.
    """
    runtime = check_runtime(runtime)
    if runtime == "auto":
        for possible in location.runtimes:
            if is_installed(possible):
                return possible
        check_installed(location.runtimes[0], f"The model {location.name}")
    needed = "keras" if is_image_runtime(runtime) else runtime
    if needed not in location.runtimes:
        runtimes = " or ".join(location.runtimes)
        if "saved_model" in location.runtimes:
            remedy = "Pass the folder of the run instead of the export."
        else:
            remedy = "Choose another runtime, or export the model for this one."
        raise InputError(
            f"`runtime` must be {runtimes} for the model {location.name}. Received: "
            f"runtime={runtime!r}. {remedy}"
        )
    check_installed(runtime)
    return runtime


def check_runtime(runtime: str | os.PathLike) -> str:
    """Returns a runtime as str, or raises if it is unknown."""
    runtime = os.fspath(runtime)
    if runtime.endswith(".tflite"):
        return os.path.abspath(runtime)
    remedy = "Choose one of them, or the path of a .tflite file."
    check_choice("`runtime`", runtime, RUNTIMES, remedy)
    return runtime


def is_image_runtime(runtime: str) -> bool:
    """Returns True for runtimes that embed only the images of a Keras model."""
    return runtime in IMAGE_RUNTIMES or runtime.endswith(".tflite")


def check_installed(runtime: str, subject: str | None = None) -> None:
    """Raises `MissingExtraError` if a package that a runtime needs is not installed.

    Args:
        runtime: name of a runtime, or path of a `.tflite` file.
        subject: option that needs the package, for the message. Defaults to `runtime`.
    """
    otherwise = "" if subject else ", or omit `runtime`"
    subject = subject or f"runtime={runtime!r}"
    if runtime in ("keras", "saved_model") or is_image_runtime(runtime):
        check_tensorflow(subject, otherwise)
    if runtime in _PACKAGES:
        package, extra = _PACKAGES[runtime]
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"{subject} needs {package}", extra, otherwise)


def is_installed(runtime: str) -> bool:
    """Returns True if the packages of a runtime are installed."""
    try:
        check_installed(runtime)
    except MissingExtraError:
        return False
    return True


def keras_or_auto(model: str | os.PathLike) -> str:
    """Returns the runtime that evaluates a model, by default in every benchmark.

    The result is `"keras"` if the model has Keras weights and TensorFlow is installed,
    and the choice of `"auto"` otherwise. The 8-bit LiteRT files of `align_small_en`
    are a different model: the cosine to the image embeddings of Keras was at least
    0.973 on 300 drawings, screenshots and photographs.
    """
    location = locate_model(model)
    if "keras" in location.runtimes and has_tensorflow():
        return "keras"
    return choose_runtime(location)


def find_saved_model(directory: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a SavedModel that embeds images and texts.

    Args:
        directory: folder with `saved_model.pb`, or folder that `export_saved_model`
            wrote. In the second case, the result is the newest `align/VERSION`.
    """
    directory = pathlib.Path(directory)
    versions = [path.name for path in directory.glob("align/*") if path.is_dir()]
    newest = max(filter(str.isdecimal, versions), key=int, default=None)
    return directory if newest is None else directory / "align" / newest


def _folder_of(name: str) -> pathlib.Path:
    """Returns the folder of a model. Plain names may refer to `saved_models/NAME`."""
    if not name or name != os.path.basename(name) or os.path.isdir(name):
        return pathlib.Path(name or "''")
    return shared_folder("saved_models", name) or pathlib.Path(name)


def _runtimes_of(folder: pathlib.Path) -> tuple[str, ...]:
    """Returns the runtimes for which a folder has files, in order of preference."""
    if is_open_clip(folder):
        return ("onnx",)
    is_saved_model = (folder / "saved_model.pb").exists() or (folder / "align").is_dir()
    has_files = {
        "litert": (folder / LITERT_FILES["text"]).is_file(),
        "saved_model": is_saved_model,
        "keras": (folder / "config.json").exists(),
        "onnx": (folder / ONNX_FILES["text"]).is_file(),
    }
    return tuple(runtime for runtime, has in has_files.items() if has)


def _has_only_foreign_onnx(folder: pathlib.Path) -> bool:
    """Returns True for a folder with ONNX files of another layout as its weights."""

    def has_any(*patterns: str) -> bool:
        return any(any(folder.glob(pattern)) for pattern in patterns)

    has_weights = has_any("*.weights.h5", "*.safetensors", "checkpoints")
    return not has_weights and has_any("*.onnx", "*/*.onnx")


def _not_a_model(name: str, folder: pathlib.Path) -> InputError:
    """Returns the error for a folder without files of a model."""
    runs = shared_folder("saved_models")
    names = {*SHIPPED_MODELS, *(os.listdir(runs) if runs else ())}
    remedy = did_you_mean(name, sorted(names)) or (
        "Check the name, or write an export with `align-keras export`."
    )
    problem = f"has no {_MODEL_FILES}"
    if not folder.exists():
        from align_keras.presets.sizes import preset_names

        problem = "does not exist"
        if name in preset_names():
            problem = "is a preset with random weights"
            remedy = (
                "Train it with `align-keras train`, and pass the folder of the run."
            )
    elif _has_only_foreign_onnx(folder):
        problem = "has ONNX files of another layout"
        remedy = "Choose a model in immich's layout, such as those of hf://immich-app."
    elif (folder / "checkpoints").exists():
        problem = "is a run that has not finished"
        remedy = "Run the same train command again to continue it."
    return InputError(
        f"`model` must be {', '.join(SHIPPED_MODELS)}, the folder of a run, a preset "
        "or an export (SavedModel, LiteRT or ONNX), or hf://user/model. Received: "
        f"model={name!r}, which {problem}. {remedy}"
    )

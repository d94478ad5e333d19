"""Writes the files of presets in the folder layout of KerasHub.

`keras_hub.upload_preset` and the loaders of KerasHub accept the folders. Each file is
written atomically.
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import keras_hub
import numpy as np

from align_keras.presets.layout import (
    CONFIG_FILE,
    DIGESTED_FILES,
    DIGESTS_KEY,
    IMAGE_CONVERTER_FILE,
    PREPROCESSOR_CONFIG_FILE,
    PRESET_METADATA_FILE,
    REST_FILE,
    TABLE_FILE,
    TASK_FILE,
    TOKENIZER_CONFIG,
    TOWER_FILES,
    VOCABULARY_ASSET,
    WEIGHTS_FILE,
    check_no_saved_model,
    file_digests,
)
from align_keras.utils.files import atomic_path, atomic_write, refuse_url

# Bytes. Upper bound of the metadata that HDF5 stores for a tensor.
_HDF5_BYTES = 8192
# Other forms of the weights of a model. `load_model` prefers the towers.
_OTHER_WEIGHTS = (
    *TOWER_FILES,
    TABLE_FILE,
    REST_FILE,
    "image.onnx",
    "text.onnx",
)
_TOKENIZER_FILES = (TOKENIZER_CONFIG, VOCABULARY_ASSET)
_PREPROCESSOR_FILES = (
    PREPROCESSOR_CONFIG_FILE,
    IMAGE_CONVERTER_FILE,
    *_TOKENIZER_FILES,
)


def save_task(task: keras.Model, directory: str | os.PathLike) -> None:
    """Writes the files of `ALIGN.save_to_preset`.

    The files of an earlier model in the folder are replaced or removed.

    Raises:
        InputError: if the folder contains a SavedModel.
    """
    check_no_saved_model("preset_dir", directory)
    directory = _make_directory(directory)
    if task.preprocessor is None:
        _remove_files(directory, _PREPROCESSOR_FILES)
    else:
        save_preprocessor(task.preprocessor, directory)
    _save_weights(task.backbone, directory)
    save_task_config(task, directory, [WEIGHTS_FILE])


def save_task_config(
    task: keras.Model, directory: pathlib.Path, weight_files: Iterable[str]
) -> None:
    """Writes task.json, metadata.json and config.json.

    Args:
        task: `ALIGN`.
        directory: path of the folder. It contains the vocabulary and the weights.
        weight_files: names of the files of the weights.
    """
    _write_config(task, directory / TASK_FILE)
    _save_backbone_config(task.backbone, directory, weight_files)


def save_backbone(backbone: keras.Model, directory: str | os.PathLike) -> None:
    """Writes the files of `ALIGNBackbone.save_to_preset`.

    Raises:
        InputError: if the folder contains a SavedModel.
    """
    check_no_saved_model("preset_dir", directory)
    directory = _make_directory(directory)
    _save_weights(backbone, directory)
    _save_backbone_config(backbone, directory, [WEIGHTS_FILE])


def save_preprocessor(
    preprocessor: keras.layers.Layer, directory: str | os.PathLike
) -> None:
    """Writes preprocessor.json and the files of the tokenizer and the converter."""
    directory = _make_directory(directory)
    if preprocessor.tokenizer is None:
        _remove_files(directory, _TOKENIZER_FILES)
    else:
        save_tokenizer(preprocessor.tokenizer, directory)
    save_image_converter(preprocessor.image_converter, directory)
    _write_config(preprocessor, directory / PREPROCESSOR_CONFIG_FILE)


def save_tokenizer(tokenizer: keras.layers.Layer, directory: str | os.PathLike) -> None:
    """Writes tokenizer.json and assets/tokenizer/vocabulary.txt."""
    directory = _make_directory(directory)
    asset = directory / VOCABULARY_ASSET
    asset.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save_assets(asset.parent)
    _write_config(tokenizer, directory / TOKENIZER_CONFIG)


def save_image_converter(
    image_converter: keras.layers.Layer, directory: str | os.PathLike
) -> None:
    """Writes image_converter.json."""
    _write_config(image_converter, _make_directory(directory) / IMAGE_CONVERTER_FILE)


def _size_of_weights(backbone: keras.Model) -> int:
    """Returns the size of all variables in bytes."""
    return sum(
        math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
        for variable in backbone.variables
    )


@contextlib.contextmanager
def atomic_keras_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path and renames it to `path` when the block ends.

    Keras needs a path that ends in `.keras`.
    """
    with atomic_path(path) as temporary:
        keras_file = temporary.with_name(f"{temporary.name}.keras")
        try:
            yield keras_file
            keras_file.replace(temporary)
        finally:
            keras_file.unlink(missing_ok=True)


def _make_directory(directory: str | os.PathLike) -> pathlib.Path:
    refuse_url(directory, "directory")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _remove_files(directory: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        (directory / name).unlink(missing_ok=True)


def _save_backbone_config(
    backbone: keras.Model, directory: pathlib.Path, weight_files: Iterable[str]
) -> None:
    """Writes metadata.json, and config.json with the digests of the other files."""
    # KerasHub also stores the date. Without it, equal models have equal files.
    metadata = {
        "keras_version": keras.version(),
        "keras_hub_version": keras_hub.__version__,
        "parameter_count": backbone.count_params(),
        "tasks": ["ALIGN"],
    }
    _write_json(metadata, directory / PRESET_METADATA_FILE)
    digested_files = [*weight_files]
    digested_files += [name for name in DIGESTED_FILES if (directory / name).exists()]
    config = _serialize(backbone)
    config[DIGESTS_KEY] = file_digests(directory, digested_files)
    # config.json marks a complete folder, so it is written last.
    _write_json(config, directory / CONFIG_FILE)


def _write_config(layer: keras.layers.Layer, path: pathlib.Path) -> None:
    _write_json(_serialize(layer), path)


def _write_json(content: dict, path: pathlib.Path) -> None:
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)


def _serialize(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the configuration of a layer or a model without its vocabulary."""
    config = keras.saving.serialize_keras_object(layer)
    _clean(config)
    return config


def _clean(config: dict[str, Any]) -> None:
    """Removes the vocabulary and the options of `build` and `compile`, in place."""
    config.pop("build_config", None)
    config.pop("compile_config", None)
    if config.get("class_name") == "ALIGNTokenizer":
        config["config"]["vocabulary"] = None
    for value in config.values():
        if isinstance(value, dict):
            _clean(value)


def _save_weights(backbone: keras.Model, directory: pathlib.Path) -> None:
    """Writes the weights atomically, and removes other forms of earlier weights."""
    temporary = directory / f".{WEIGHTS_FILE.replace('.weights', '.tmp.weights')}"
    size = _size_of_weights(backbone)
    try:
        with open(temporary, "wb") as file:
            # HDF5 aborts the process if the disk becomes full while it writes.
            if hasattr(os, "posix_fallocate"):
                file_size = size + _HDF5_BYTES * (1 + len(backbone.variables))
                os.posix_fallocate(file.fileno(), 0, file_size)
        backbone.save_weights(temporary, overwrite=True)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(directory / WEIGHTS_FILE)
        _remove_files(directory, _OTHER_WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)

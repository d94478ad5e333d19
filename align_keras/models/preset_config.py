"""Configuration of `ALIGN` in the files of a preset."""

import os
import pathlib
from typing import Any

import keras

from align_keras.models.trainable_layers import CONFIG_KEY as TRAINABLE_KEY
from align_keras.presets.layout import (
    CONFIG_FILE,
    DIGESTED_FILES,
    DIGESTS_KEY,
    IMAGE_CONVERTER_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TASK_FILE,
    TOKENIZER_CONFIG,
    VOCABULARY_ASSET,
    check_digests,
)
from align_keras.text import load_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

ENCODERS = ("image_encoder", "text_encoder")


def read_preset_config(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the configuration of the `ALIGN` in a preset folder.

    Args:
        directory: path of the folder.

    Returns:
        dict, the argument of `ALIGN.from_config`. The vocabulary is in the
        configuration of the tokenizer.

    Raises:
        InputError: if config.json describes another class, or if a file has changed
            since it was written.
    """
    config_file = directory / CONFIG_FILE
    stored = read_json(config_file)
    class_name = stored.get("class_name", "no class_name")
    if class_name != "ALIGNBackbone":
        raise InputError(
            f"{config_file} must describe an ALIGNBackbone. Received: {class_name!r}. "
            "Pass the folder of a run, of save_to_preset, or of an ALIGN in the format "
            "of Hugging Face."
        )
    check_digests(stored.pop(DIGESTS_KEY, {}), directory, DIGESTED_FILES)
    task_file = directory / TASK_FILE
    config = dict(read_json(task_file)["config"]) if task_file.exists() else {}
    config["backbone"] = stored
    config["preprocessor"] = _read_preprocessor(directory)
    if config["preprocessor"] is None:
        config["preprocessor"] = _default_preprocessor(stored["config"])
    return config


def check_vocabulary_file(directory: pathlib.Path) -> None:
    """Raises if the vocabulary of a preset differs from its digest."""
    digests = read_json(directory / CONFIG_FILE).get(DIGESTS_KEY, {})
    check_digests(digests, directory, [VOCABULARY_ASSET])


def replace_arguments(
    config: dict[str, Any], parts: dict[str, dict], directory: str | os.PathLike
) -> None:
    """Replaces arguments in the configuration of an `ALIGN`.

    Args:
        config: dict of `read_preset_config`, changed in place.
        parts: dict of `divide_arguments`.
        directory: folder of the preset, for error messages.
    """
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
    align = dict(parts["align"])
    dtype = image.pop("dtype", None)
    text.pop("dtype", None)
    backbone = config["backbone"]["config"]
    preprocessor = config["preprocessor"]["config"]
    for name in ("name", "compile"):
        if name in align:
            config[name] = align.pop(name)
    backbone.update(align)
    for encoder, changes in (("image_encoder", image), ("text_encoder", text)):
        backbone[encoder]["config"].update(changes)
        if changes.keys() & {"locked", "trainable"}:
            # The arguments replace the saved flags of single layers.
            backbone[encoder]["config"].pop(TRAINABLE_KEY, None)
            backbone.pop(TRAINABLE_KEY, None)
            backbone.pop("trainable", None)
            config.pop("trainable", None)
    if "learn_temperature" in align and TRAINABLE_KEY in backbone:
        backbone[TRAINABLE_KEY]["temperature"] = align["learn_temperature"]
    if "image_size" in image:
        preprocessor["image_converter"]["config"]["image_size"] = image["image_size"]
    if "sequence_length" in text and preprocessor.get("tokenizer") is not None:
        tokenizer = preprocessor["tokenizer"]["config"]
        tokenizer["sequence_length"] = text["sequence_length"]
    if dtype is not None:
        _replace_dtype(backbone, dtype, directory)


def _replace_dtype(
    backbone: dict[str, Any], dtype: Any, directory: str | os.PathLike
) -> None:
    """Sets the dtype policy of a backbone and its encoders."""
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
    for part in (backbone, *(backbone[key]["config"] for key in ENCODERS)):
        if (part.get("dtype") or {}).get("class_name") == "DTypePolicyMap":
            raise InputError(
                "dtype must be left out for a quantized model. Received: "
                f"dtype={dtype} for the folder {directory}. Leave dtype out, or load "
                "the model from before the quantization."
            )
        part["dtype"] = policy


def _read_preprocessor(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the serialized preprocessor of a folder, or None if it has none."""
    path = directory / PREPROCESSOR_CONFIG_FILE
    if not path.exists():
        return None
    preprocessor = read_json(path)
    config = preprocessor["config"]
    config["image_converter"] = read_json(directory / IMAGE_CONVERTER_FILE)
    if config.get("tokenizer") is not None:
        config["tokenizer"] = read_json(directory / TOKENIZER_CONFIG)
        vocabulary = load_vocabulary(directory / VOCABULARY_ASSET)
        config["tokenizer"]["config"]["vocabulary"] = vocabulary
    return preprocessor


def _default_preprocessor(backbone: dict[str, Any]) -> dict[str, Any]:
    """Returns the serialized preprocessor of a backbone without a vocabulary."""
    image_size = backbone["image_encoder"]["config"]["image_size"]
    converter = _serialized("ALIGNImageConverter", {"image_size": image_size})
    config = {"tokenizer": None, "image_converter": converter}
    return _serialized("ALIGNPreprocessor", config)


def _serialized(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the serialized form of an object of this package."""
    return {
        "module": "align_keras.models",
        "class_name": class_name,
        "config": config,
        "registered_name": f"align_keras>{class_name}",
    }

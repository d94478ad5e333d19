"""Configurations in the files of a preset."""

import contextlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from align_keras.presets.hugging_face_processing import (
    read_image_processing,
    read_normalization,
    read_sequence_length,
    read_vocabulary,
)
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
from align_keras.presets.locate import (
    is_hugging_face_folder,
    is_keras_file,
    locate_preset,
)
from align_keras.presets.sizes import preset_config
from align_keras.text import load_vocabulary
from align_keras.utils.arguments import refuse_unknown
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

# Exceptions that Keras and this package raise for a damaged configuration.
_DAMAGES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# Arguments of `open_part`. Those of a folder keep the meaning of its weights.
_FOR_FOLDERS = ("image_size", "sequence_length")
_FOR_NAMES = (*_FOR_FOLDERS, "vocabulary", "normalization")


@contextlib.contextmanager
def damage_reported(
    text: str, remedy: str, errors: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Converts the exceptions of a damaged file to an `InputError` of one line.

    Args:
        text: start of the message.
        remedy: last sentence of the message, without the period.
        errors: exception classes in addition to those of a damaged configuration.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGES + errors as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise InputError(f"{text} ({reason}). {remedy}.") from None


def read_backbone(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the serialized `ALIGNBackbone` of a folder.

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
    return stored


def read_task(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the configuration of the `ALIGN` of a folder, without its parts."""
    config = dict(read_json(directory / TASK_FILE).get("config", {}))
    config.pop("backbone", None)
    config.pop("preprocessor", None)
    return config


def check_vocabulary_file(directory: pathlib.Path) -> None:
    """Raises if the vocabulary of a preset differs from its digest."""
    digests = read_json(directory / CONFIG_FILE).get(DIGESTS_KEY, {})
    check_digests(digests, directory, [VOCABULARY_ASSET])


def open_part(
    part: str,
    preset: str | os.PathLike,
    revision: str | None = None,
    token: str | None = None,
    **arguments: Any,
) -> Any:
    """Builds the preprocessor of a preset, or one of its two layers.

    Args:
        part: "preprocessor", "tokenizer" or "image_converter".
        preset: name, path or address, as for `ALIGN.from_preset`.
        revision: branch, tag or commit of a model on the Hugging Face Hub.
        token: token of the Hugging Face Hub.
        **arguments: `image_size` and `sequence_length`, and for the name of a preset
            `vocabulary` and `normalization`. An argument that is None is ignored.

    Returns:
        Layer, or None for the tokenizer of a preset without a vocabulary.

    Raises:
        InputError: if the preset is unknown or damaged, or an argument doesn't fit.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    refuse_unknown("from_preset", arguments, ["revision", "token", *_FOR_NAMES])
    path = locate_preset(preset, revision, token, load_weights=False)
    if path is not None:
        allowed = () if is_keras_file(path) else _FOR_FOLDERS
        refused = [name for name in arguments if name not in allowed]
        if refused:
            rule = "can only be set with the name of a preset"
            if is_keras_file(path):
                rule = "can't be set with a .keras file"
            raise InputError(
                f"{', '.join(refused)} {rule}. Received: {path}. Leave the arguments "
                "out."
            )
    errors = (OSError, zipfile.BadZipFile)
    with damage_reported(f"{path} can't be opened", "Save the model again", errors):
        if path is None:
            serialized = named_preprocessor(str(preset), **arguments)
        elif is_keras_file(path):
            serialized = _preprocessor_of_file(path)
        else:
            digests = read_json(path / CONFIG_FILE).get(DIGESTS_KEY, {})
            check_digests(digests, path, DIGESTED_FILES)
            serialized = read_preprocessor(path, **arguments)
        if part != "preprocessor":
            serialized = serialized["config"][part]
        return keras.saving.deserialize_keras_object(serialized)


def named_preprocessor(
    name: str,
    image_size: int | None = None,
    sequence_length: int | None = None,
    vocabulary: Sequence[str] | None = None,
    normalization: str = "bert_uncased",
) -> dict[str, Any]:
    """Returns the serialized preprocessor of the name of a preset."""
    sizes = preset_config(name)
    tokenizer = None
    if vocabulary is not None:
        tokenizer = {
            "vocabulary": vocabulary,
            "sequence_length": sequence_length or sizes["sequence_length"],
            "normalization": normalization,
        }
    return _preprocessor(image_size or sizes["image_size"], tokenizer)


def read_preprocessor(
    directory: pathlib.Path,
    image_size: int | None = None,
    sequence_length: int | None = None,
) -> dict[str, Any]:
    """Returns the serialized preprocessor of a folder, with other sizes if given.

    A backbone that was saved alone has a preprocessor without a tokenizer.
    """
    if is_hugging_face_folder(directory):
        preprocessor = _preprocessor_of_hugging_face(directory)
    elif (directory / PREPROCESSOR_CONFIG_FILE).exists():
        preprocessor = _stored_preprocessor(directory)
    else:
        backbone = read_json(directory / CONFIG_FILE)["config"]
        preprocessor = _preprocessor(_image_size(backbone), None)
    config = preprocessor["config"]
    if image_size is not None:
        config["image_converter"]["config"]["image_size"] = image_size
    if sequence_length is not None and config.get("tokenizer") is not None:
        config["tokenizer"]["config"]["sequence_length"] = sequence_length
    return preprocessor


def _stored_preprocessor(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the preprocessor of `save_to_preset`, with its vocabulary."""
    preprocessor = read_json(directory / PREPROCESSOR_CONFIG_FILE)
    config = preprocessor["config"]
    config["image_converter"] = read_json(directory / IMAGE_CONVERTER_FILE)
    if config.get("tokenizer") is not None:
        config["tokenizer"] = read_json(directory / TOKENIZER_CONFIG)
        vocabulary = load_vocabulary(directory / VOCABULARY_ASSET)
        config["tokenizer"]["config"]["vocabulary"] = vocabulary
    return preprocessor


def _preprocessor_of_hugging_face(directory: pathlib.Path) -> dict[str, Any]:
    tokenizer = None
    vocabulary = read_vocabulary(directory)
    if vocabulary is not None:
        tokenizer = {
            "vocabulary": vocabulary,
            "sequence_length": read_sequence_length(directory),
            "normalization": read_normalization(directory),
        }
    return _preprocessor(read_image_processing(directory).image_size, tokenizer)


def _preprocessor_of_file(path: pathlib.Path) -> dict[str, Any]:
    """Returns the preprocessor of a `.keras` file, an archive with a config.json."""
    with zipfile.ZipFile(path) as archive:
        stored = json.loads(archive.read(CONFIG_FILE))
    config = stored["config"]
    if config["preprocessor"] is not None:
        return config["preprocessor"]
    return _preprocessor(_image_size(config["backbone"]["config"]), None)


def _image_size(backbone: dict[str, Any]) -> int:
    return backbone["image_encoder"]["config"]["image_size"]


def _preprocessor(image_size: int, tokenizer: dict | None) -> dict[str, Any]:
    """Returns a serialized preprocessor for a size and arguments of the tokenizer."""
    if tokenizer is not None:
        tokenizer = _serialized("ALIGNTokenizer", tokenizer)
    converter = _serialized("ALIGNImageConverter", {"image_size": image_size})
    config = {"tokenizer": tokenizer, "image_converter": converter}
    return _serialized("ALIGNPreprocessor", config)


def _serialized(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the serialized form of an object of this package."""
    return {
        "module": "align_keras.models",
        "class_name": class_name,
        "config": config,
        "registered_name": f"align_keras>{class_name}",
    }

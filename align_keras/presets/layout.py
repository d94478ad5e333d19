"""Names of the files in a preset folder, and digests that detect damaged files."""

import hashlib
import os
import pathlib
from collections.abc import Iterable

from align_keras.text.vocabulary import VOCABULARY_FILE
from align_keras.utils.errors import InputError

# The names are those of presets of KerasHub.
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
TASK_FILE = "task.json"
PREPROCESSOR_CONFIG_FILE = "preprocessor.json"
TOKENIZER_CONFIG = "tokenizer.json"
IMAGE_CONVERTER_FILE = "image_converter.json"
PRESET_METADATA_FILE = "metadata.json"
# Weights of the shipped model: 8-bit integers in LiteRT files, a table from variables
# to their tensors, and the remaining weights.
TABLE_FILE = "litert_weights.json"
REST_FILE = "rest.safetensors"
TOWER_FILES = ("image.tflite", "text.tflite")
VOCABULARY_ASSET = f"assets/tokenizer/{VOCABULARY_FILE}"
# Files of which config.json has digests, in addition to the files of the weights.
DIGESTED_FILES = (
    TASK_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG,
    IMAGE_CONVERTER_FILE,
    VOCABULARY_ASSET,
)
# Entry of config.json, a dict from file name to SHA-256 in hexadecimal digits.
DIGESTS_KEY = "sha256"


def file_digests(directory: str | os.PathLike, names: Iterable[str]) -> dict[str, str]:
    """Returns a dict from the name of each file to its SHA-256."""
    digests = {}
    for name in names:
        with open(pathlib.Path(directory, name), "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def check_digests(
    expected: dict[str, str], directory: str | os.PathLike, names: Iterable[str]
) -> None:
    """Raises if a file has changed since config.json was written.

    Args:
        expected: the entry `DIGESTS_KEY` of config.json. A file without a digest
            passes, such as a preprocessor that was saved after its backbone.
        directory: folder of the files.
        names: names of the files to check.

    Raises:
        InputError: if a file differs from its digest.
        OSError: if a file is missing.
    """
    actual = file_digests(directory, [name for name in names if name in expected])
    for name, digest in actual.items():
        if digest != expected[name]:
            raise InputError(
                f"{pathlib.Path(directory, name)} is damaged or doesn't fit the "
                f"{CONFIG_FILE} next to it. Its SHA-256 must be {expected[name]}. "
                f"Received: {digest}. Save the model again with save_to_preset, finish "
                "the run with the command that started it, or download both files "
                "again."
            )


def check_no_saved_model(name: str, directory: str | os.PathLike) -> None:
    """Raises if a folder has a SavedModel, which `load_model` prefers to a preset.

    Args:
        name: name of the argument for the message.
        directory: str or path of the folder, which may not exist.
    """
    for saved_model in ("saved_model.pb", "align"):
        if os.path.exists(os.path.join(directory, saved_model)):
            raise InputError(
                f"{name} must be a folder without a SavedModel, because "
                "align_keras.load_model would open the SavedModel instead of the "
                f"saved weights. Received: {directory} with {saved_model}. Choose "
                "another folder."
            )

"""Loading and saving of presets.

A preset is a named size of ALIGN, or a folder of configuration, weights and vocabulary.
"""

import contextlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from align_keras.models.conversion.hugging_face import from_hugging_face
from align_keras.models.conversion.litert_weights import (
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
    load_litert_weights,
)
from align_keras.models.hub import download, is_hub_name
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.preset_files import (
    CONFIG_FILE,
    DIGESTS_KEY,
    WEIGHTS_FILE,
    check_digests,
    file_digests,
)
from align_keras.models.preset_table import (
    PAPER_VOCABULARY_SIZE,
    preset_config,
    preset_names,
)
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.tower_costs import check_parameters
from align_keras.models.trainable_layers import CONFIG_KEY as TRAINABLE_KEY
from align_keras.text import load_vocabulary, save_vocabulary
from align_keras.text.vocabulary import VOCABULARY_FILE
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json, refuse_url
from align_keras.utils.shared_data import SHIPPED_MODELS, find_shipped_model

ENCODERS = ("image_encoder", "text_encoder")
# Bytes. Upper bound of the metadata that HDF5 stores for a tensor.
_HDF5_BYTES = 8192

# Exceptions that Keras and this package raise for a damaged configuration.
_DAMAGES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# Arguments that the name of a preset determines.
_NAMED = (
    "width_coefficient",
    "depth_coefficient",
    "num_stages",
    "lite",
    "num_layers",
    "hidden_dim",
    "num_heads",
    "intermediate_dim",
    "architecture",
)
# Arguments that may replace those of a saved model. They are the sizes of its inputs
# and settings of further training. The weights depend on all other arguments.
_FOR_FOLDERS = (
    "dtype",
    "image_size",
    "sequence_length",
    "dropout",
    "drop_connect_rate",
    "batch_norm_momentum",
    "synchronized",
    "virtual_batch_size",
    "freeze_batch_statistics",
    "rematerialize",
    "locked",
    "trainable",
    "learn_temperature",
    "name",
)


def from_preset(
    cls: type[keras.Model],
    preset: str | os.PathLike,
    load_weights: bool = True,
    revision: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> keras.Model:
    """Implements `ALIGN.from_preset`. `cls` is `ALIGN`, which imports this module."""
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    parts = divide_arguments(cls, arguments)
    for name, value in (("revision", revision), ("token", token)):
        if value is not None and not is_hub_name(str(preset)):
            raise InputError(
                f"{name} can only be set for a model on the Hugging Face Hub. "
                f"Received: the preset {preset}. Leave {name} out, or pass "
                "hf://user/model."
            )
    if str(preset) in preset_names():
        return from_name(cls, str(preset), parts)
    if str(preset) in SHIPPED_MODELS:
        preset = find_shipped_model(str(preset))
    elif is_hub_name(str(preset)):
        preset = download(str(preset), revision, token, weights=load_weights)
    directory = pathlib.Path(preset)
    if directory.is_file() or directory.suffix == ".keras":
        return from_file(cls, directory, load_weights, arguments)
    if not directory.is_dir():
        raise InputError(
            "preset must be the name of a preset or the path of a folder. Received: "
            f"preset={preset}. The names of presets are "
            f"{', '.join([*SHIPPED_MODELS, *preset_names()])}."
        )
    if (directory / "saved_model.pb").exists() or (directory / "align").is_dir():
        raise InputError(
            "preset must be a folder with weights of Keras. Received: the export "
            f"{directory}, which can't be converted to an ALIGN. Compute embeddings "
            f'with align_keras.load_model("{directory}"), or open the run folder or '
            "the preset that was exported."
        )
    refused = [name for name in arguments if name not in _FOR_FOLDERS]
    if refused:
        raise InputError(
            f"{', '.join(refused)} can only be set with the name of a preset. "
            f"Received: the folder {preset}, whose config.json defines the model. "
            "Leave the arguments out."
        )
    if "model_type" in read_json(directory / CONFIG_FILE):
        return from_hugging_face(cls, directory, load_weights, parts)
    return from_folder(directory, load_weights, parts)


def from_file(
    cls: type[keras.Model], path: pathlib.Path, load_weights: bool, arguments: dict
) -> keras.Model:
    """Opens a `.keras` file, with its optimizer if it was compiled."""
    if path.suffix != ".keras" or not path.is_file():
        raise InputError(
            "A model file must exist and its name must end in .keras. Received: "
            f'{path}. Save one with model.save("….keras"), or pass the folder of a '
            "run."
        )
    if arguments or not load_weights:
        names = list(arguments)
        if not load_weights:
            names.append("load_weights")
        raise InputError(
            f"{', '.join(names)} can't be set with a .keras file. Received: {path}. "
            "Open the file without them, save the model with save_to_preset, and open "
            "that folder."
        )
    # Exceptions for a damaged archive, for other contents and for unregistered classes.
    errors = (OSError, RuntimeError, zipfile.BadZipFile)
    with _damage_reported(f"{path} can't be opened", "Save the model again", errors):
        _check_archive(path)
        model = keras.saving.load_model(path)
    if not isinstance(model, cls):
        raise InputError(
            f"{path} must contain an ALIGN. Received: a {type(model).__name__}. Open "
            "it with keras.saving.load_model."
        )
    return model


def _check_archive(path: pathlib.Path) -> None:
    """Raises if a file in an archive differs from its checksum.

    Python 3.13 doesn't verify the checksum of a file that is read with `seek`, and h5py
    reads in this way.
    """
    with zipfile.ZipFile(path) as archive:
        damaged_file = archive.testzip()
    if damaged_file is not None:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {damaged_file!r}")


@contextlib.contextmanager
def _damage_reported(
    text: str, remedy: str, errors: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Converts the exceptions of a damaged file to an `InputError` of one line.

    Args:
        text: str, start of the message.
        remedy: str, last sentence of the message, without the period.
        errors: tuple of exception classes in addition to `_DAMAGES`.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGES + errors as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise InputError(f"{text} ({reason}). {remedy}.") from None


def divide_arguments(cls: type[keras.Model], arguments: dict) -> dict[str, dict]:
    """Divides arguments into those of the encoders and of the model.

    Returns:
        dict of the dicts `image_encoder`, `text_encoder` and `align`. Arguments that
        both encoders accept are in both dicts.
    """
    parameters = {
        "image_encoder": set(parameters_of(ImageEncoder.__init__)) - {"name"},
        "text_encoder": set(parameters_of(TextEncoder.__init__)) - {"name"},
        "align": set(parameters_of(cls.__init__)) - {"dtype", *ENCODERS},
    }
    names = sorted(set().union(*parameters.values()))
    refuse_unknown("from_preset", arguments, names)
    return {
        part: {name: arguments[name] for name in arguments if name in part_names}
        for part, part_names in parameters.items()
    }


def from_name(cls: type[keras.Model], preset: str, parts: dict) -> keras.Model:
    """Builds a named preset with random weights. `parts` override its sizes."""
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
    align = dict(parts["align"])
    for name, value in (*image.items(), *text.items()):
        if name in _NAMED:
            raise InputError(
                f"{name} must be left out, since the preset {preset} determines it. "
                f"Received: {name}={value!r}. Pass the name of another preset, or "
                "build ImageEncoder, TextEncoder and ALIGN."
            )
    sizes = preset_config(preset)
    projection_dim = text.pop("projection_dim", sizes["projection_dim"])
    image.pop("projection_dim", None)
    vocabulary = align.get("vocabulary")
    text.setdefault(
        "vocabulary_size", len(vocabulary) if vocabulary else PAPER_VOCABULARY_SIZE
    )
    text.setdefault("sequence_length", sizes["sequence_length"])
    image.setdefault("image_size", sizes["image_size"])
    image_encoder = ImageEncoder.from_variant(
        sizes["image_encoder"], projection_dim=projection_dim, **image
    )
    text_encoder = TextEncoder.from_variant(
        sizes["text_encoder"], projection_dim=projection_dim, **text
    )
    return cls(image_encoder, text_encoder, **align)


def save_to_preset(model: keras.Model, directory: str | os.PathLike) -> None:
    """Writes the files of `ALIGN.save_to_preset`, each one atomically."""
    refuse_url(directory, "directory")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if model.vocabulary is not None:
        save_vocabulary(model.vocabulary, directory / VOCABULARY_FILE)
    _save_weights(model, directory)
    # config.json marks a complete folder, so it is written last.
    save_preset_config(model, directory, [WEIGHTS_FILE])


def save_preset_config(
    model: keras.Model, directory: pathlib.Path, weight_files: Iterable[str]
) -> None:
    """Writes config.json, with the digests of the weight files."""
    config = keras.saving.serialize_keras_object(model)
    config[DIGESTS_KEY] = file_digests(directory, weight_files)
    with atomic_write(directory / CONFIG_FILE) as file:
        json.dump(config, file, indent=1)


def _save_weights(model: keras.Model, directory: pathlib.Path) -> None:
    """Writes the weights atomically, after reserving the disk space for them."""
    temporary = directory / f".{WEIGHTS_FILE.replace('.weights', '.tmp.weights')}"
    size = sum(
        math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
        for variable in model.variables
    )
    try:
        with open(temporary, "wb") as file:
            # HDF5 aborts the process if the disk becomes full while it writes.
            if hasattr(os, "posix_fallocate"):
                file_size = size + _HDF5_BYTES * (1 + len(model.variables))
                os.posix_fallocate(file.fileno(), 0, file_size)
        model.save_weights(temporary, overwrite=True)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(directory / WEIGHTS_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def from_folder(
    directory: pathlib.Path, load_weights: bool, parts: dict
) -> keras.Model:
    """Builds the model of a preset folder.

    Args:
        directory: path of the folder.
        load_weights: bool, load the weights, or build the model with random weights.
        parts: dict of `divide_arguments`, arguments that replace the saved ones.
    """
    config_file, weights_file = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    if not config_file.exists():
        raise InputError(
            f"{directory} must be a preset or a finished run. Received: a folder "
            f"without {CONFIG_FILE}. Finish the run with the command that started it."
        )
    config = read_json(config_file)
    if config.get("class_name") != "ALIGN":
        raise InputError(
            f"{config_file} must describe an ALIGN. Received: "
            f"{config.get('class_name', 'no class_name')!r}. Pass the folder of a run, "
            "or of an ALIGN in the format of Hugging Face."
        )
    digests = config.pop(DIGESTS_KEY, {})
    check_vocabulary_file(directory, config)
    # The shipped model has no weights file. Its weights are in the 8-bit LiteRT files
    # of both encoders and in a file with the remaining weights.
    in_towers = not weights_file.exists() and (directory / TABLE_FILE).exists()
    if load_weights and not weights_file.exists() and not in_towers:
        raise InputError(
            f"{directory} must contain {WEIGHTS_FILE}. Received: a folder without this "
            "file. Finish the run, or pass load_weights=False."
        )
    remedy = "Save the model again, or finish the run"
    with _damage_reported(f"{config_file} doesn't describe an ALIGN", remedy):
        replace_arguments(config["config"], parts, directory)
        if load_weights:
            image = config["config"]["image_encoder"]["config"]
            text = config["config"]["text_encoder"]["config"]
            names = TOWER_FILES if in_towers else (WEIGHTS_FILE,)
            files = [directory / name for name in names]
            # A quantized weight takes at least 4 bits, half a byte.
            most = 2 * sum(file.stat().st_size for file in files if file.exists())
            check_parameters(image, text, most, files[0])
        model = keras.saving.deserialize_keras_object(config)
    if load_weights and in_towers:
        load_litert_weights(model, directory)
        check_digests(digests, directory, [*TOWER_FILES, TABLE_FILE, REST_FILE])
    elif load_weights:
        fault = f"{weights_file} is damaged or doesn't fit the {CONFIG_FILE} next to it"
        # h5py and Keras raise these exceptions.
        with _damage_reported(fault, remedy, (OSError, RuntimeError)):
            model.load_weights(weights_file)
        # The digests are checked last, because the errors of `load_weights` name the
        # tensor that doesn't fit.
        check_digests(digests, directory, [WEIGHTS_FILE])
    return model


def check_vocabulary_file(directory: pathlib.Path, config: dict | None = None) -> None:
    """Raises if a folder's `vocabulary.txt` isn't the vocabulary of its `config.json`.

    Args:
        directory: path of a preset's folder.
        config: dict, the content of its `config.json`, or None to read the file.
    """
    path = directory / VOCABULARY_FILE
    if config is None:
        config = read_json(directory / CONFIG_FILE)
    arguments = config.get("config")
    vocabulary = arguments.get("vocabulary") if isinstance(arguments, dict) else None
    if vocabulary is None or not path.exists():
        return
    if load_vocabulary(path) != vocabulary:
        raise InputError(
            f"{path} must hold the vocabulary that the model was trained with, which "
            f"{CONFIG_FILE} contains. Received: another vocabulary. Restore the file, "
            "or save the model again."
        )


def replace_arguments(config: dict, parts: dict, directory: str | os.PathLike) -> None:
    """Replaces arguments in the configuration of an `ALIGN`.

    Args:
        config: dict, changed in place.
        parts: dict of `divide_arguments`.
        directory: folder of the preset, for error messages.
    """
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
    align = dict(parts["align"])
    dtype = image.pop("dtype", None)
    text.pop("dtype", None)
    config.update(align)
    for encoder, changes in (("image_encoder", image), ("text_encoder", text)):
        config[encoder]["config"].update(changes)
        if changes.keys() & {"locked", "trainable"}:
            # The arguments replace the saved flags of single layers.
            config[encoder]["config"].pop(TRAINABLE_KEY, None)
            config.pop(TRAINABLE_KEY, None)
            config.pop("trainable", None)
    if "learn_temperature" in align and TRAINABLE_KEY in config:
        config[TRAINABLE_KEY]["temperature"] = align["learn_temperature"]
    if dtype is None:
        return
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
    for part in (config, *(config[key]["config"] for key in ENCODERS)):
        if (part.get("dtype") or {}).get("class_name") == "DTypePolicyMap":
            raise InputError(
                "dtype must be left out for a quantized model. Received: "
                f"dtype={dtype} for the folder {directory}. Leave dtype out, or load "
                "the model from before the quantization."
            )
        part["dtype"] = policy

"""Models by name, and folders of config, weights and vocabulary."""

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
    load_beside_towers,
)
from align_keras.models.hub import HUB_PREFIX, download
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
# Bytes. Upper bound of what HDF5 stores besides the values of a tensor.
_HDF5_BYTES = 8192

# Errors that a damaged configuration causes before TensorFlow computes anything.
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
# Arguments that may replace those of a saved model: the sizes of its inputs, and
# settings of further training. The weights depend on all other arguments.
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
    **kwargs: Any,
) -> keras.Model:
    """Builds the model of `ALIGN.from_preset`, where `cls` is `ALIGN`."""
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    parts = divide_arguments(cls, arguments)
    if str(preset) in preset_names():
        return from_name(cls, str(preset), parts)
    if str(preset) in SHIPPED_MODELS:
        preset = find_shipped_model(str(preset))
    elif str(preset).startswith(HUB_PREFIX):
        preset = download(str(preset))
    directory = pathlib.Path(preset)
    if directory.is_file() or directory.suffix == ".keras":
        return from_file(cls, directory, load_weights, arguments)
    if not directory.is_dir():
        raise InputError(
            f"no preset and no folder of this name: {preset}; known presets are "
            f"{', '.join([*SHIPPED_MODELS, *preset_names()])}."
        )
    if (directory / "saved_model.pb").exists() or (directory / "align").is_dir():
        raise InputError(
            f"{directory} is an export, which embeds but can't become an ALIGN again; "
            f'embed by align_keras.load_model("{directory}"), or open the '
            "run folder or preset that it was made from."
        )
    refused = [name for name in arguments if name not in _FOR_FOLDERS]
    if refused:
        raise InputError(
            f"{', '.join(refused)} can only be given with a preset's name, received "
            f"the folder {preset}; its config.json says what the model is."
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
            f"a file must be there and end in .keras, received {path}; save one by "
            'model.save("….keras"), or name the folder of a run.'
        )
    if arguments or not load_weights:
        names = list(arguments)
        if not load_weights:
            names.append("load_weights")
        raise InputError(
            f"{', '.join(names)} can't be given with a .keras file, received {path}; "
            "open it, save it by save_to_preset, and open that folder."
        )
    # Errors of a damaged archive, of other contents and of unregistered classes.
    errors = (OSError, RuntimeError, zipfile.BadZipFile)
    with _damages_named(f"{path} can't be opened", "save the model again", errors):
        _check_archive(path)
        model = keras.saving.load_model(path)
    if not isinstance(model, cls):
        raise InputError(
            f"{path} must hold an ALIGN, received a {type(model).__name__}; open it by "
            "keras.saving.load_model."
        )
    return model


def _check_archive(path: pathlib.Path) -> None:
    """Raises if a file in an archive differs from its checksum.

    Python 3.13 compares no checksum of a file that is read by `seek`, as h5py does.
    """
    with zipfile.ZipFile(path) as archive:
        damaged_file = archive.testzip()
    if damaged_file is not None:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {damaged_file!r}")


@contextlib.contextmanager
def _damages_named(
    text: str, remedy: str, errors: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns the errors that a damaged file causes into an `InputError` of one line.

    Args:
        text: str, begin of the message.
        remedy: str, end of the message.
        errors: tuple of exception classes besides `_DAMAGES`.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGES + errors as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise InputError(f"{text} ({reason}); {remedy}.") from None


def divide_arguments(cls: type[keras.Model], arguments: dict) -> dict[str, dict]:
    """Divides arguments into those of the encoders and of the model.

    Returns:
        dict with `image_encoder`, `text_encoder` and `align`. Arguments that both
        encoders have are in both.
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
    for name in (*image, *text):
        if name in _NAMED:
            raise InputError(
                f"{name} is what the name {preset} stands for, received another; give "
                "another preset's name, or build ImageEncoder, TextEncoder and ALIGN."
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
    """Writes the files of `ALIGN.save_to_preset`, each of them atomically."""
    refuse_url(directory, "directory")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if model.vocabulary is not None:
        save_vocabulary(model.vocabulary, directory / VOCABULARY_FILE)
    _save_weights(model, directory)
    # The file is written last, since a folder counts as complete with it.
    save_preset_config(model, directory, [WEIGHTS_FILE])


def save_preset_config(
    model: keras.Model, directory: pathlib.Path, weight_files: Iterable[str]
) -> None:
    """Writes config.json, with the digests of the files that hold the weights."""
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
            # HDF5 ends the process if the disk becomes full while it writes.
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
    """Rebuilds the model of a preset's folder. `parts` replace its arguments."""
    config_file, weights_file = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    if not config_file.exists():
        raise InputError(
            f"{directory} holds no {CONFIG_FILE}, so it isn't a preset or a finished "
            "run; finish the run by the command that started it."
        )
    config = read_json(config_file)
    if config.get("class_name") != "ALIGN":
        raise InputError(
            f"{config_file} must describe an ALIGN, received "
            f"{config.get('class_name', 'no class_name')!r}; name the folder of a run, "
            "or one of Hugging Face's ALIGN."
        )
    digests = config.pop(DIGESTS_KEY, {})
    check_vocabulary_file(directory, config)
    # The shipped model has no weights file. Its weights are in the LiteRT towers of 8
    # bits and in a file with the remaining weights.
    in_towers = not weights_file.exists() and (directory / TABLE_FILE).exists()
    if load_weights and not weights_file.exists() and not in_towers:
        raise InputError(
            f"{directory} holds no {WEIGHTS_FILE}; finish the run, or pass "
            "load_weights=False."
        )
    remedy = "save the model again, or finish the run"
    with _damages_named(f"{config_file} doesn't describe an ALIGN", remedy):
        replace_arguments(config["config"], parts, directory)
        if load_weights:
            image = config["config"]["image_encoder"]["config"]
            text = config["config"]["text_encoder"]["config"]
            names = TOWER_FILES if in_towers else (WEIGHTS_FILE,)
            files = [directory / name for name in names]
            # A quantized weight takes 4 bits at least, half a byte.
            most = 2 * sum(file.stat().st_size for file in files if file.exists())
            check_parameters(image, text, most, files[0])
        model = keras.saving.deserialize_keras_object(config)
    if load_weights and in_towers:
        load_beside_towers(model, directory)
        check_digests(digests, directory, [*TOWER_FILES, TABLE_FILE, REST_FILE])
    elif load_weights:
        fault = f"{weights_file} is damaged or doesn't fit the {CONFIG_FILE} beside it"
        # Errors of h5py and Keras.
        with _damages_named(fault, remedy, (OSError, RuntimeError)):
            model.load_weights(weights_file)
        # After loading, since its errors say which tensor doesn't fit.
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
            f"is in {CONFIG_FILE}, but they differ. Restore the file, or save the "
            "model again."
        )


def replace_arguments(config: dict, parts: dict, directory: str | os.PathLike) -> None:
    """Puts arguments, divided by `divide_arguments`, into a configuration."""
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
    align = dict(parts["align"])
    dtype = image.pop("dtype", None)
    text.pop("dtype", None)
    config.update(align)
    for encoder, changes in (("image_encoder", image), ("text_encoder", text)):
        config[encoder]["config"].update(changes)
        if changes.keys() & {"locked", "trainable"}:
            # The arguments replace what was frozen layer by layer.
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
                f"dtype can't be given for a quantized model, received {dtype} and "
                f"the folder {directory}; leave dtype out."
            )
        part["dtype"] = policy

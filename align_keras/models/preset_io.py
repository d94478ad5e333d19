"""Loading of presets.

A preset is a named size of ALIGN, or a folder of configuration, weights and vocabulary.
"""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import keras

from align_keras.models.conversion.hugging_face import from_hugging_face
from align_keras.models.conversion.litert_weights import (
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
    load_litert_weights,
)
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.preset_config import (
    ENCODERS,
    read_preset_config,
    replace_arguments,
)
from align_keras.models.text_encoder import TextEncoder
from align_keras.presets.hub import download, is_hub_name
from align_keras.presets.layout import (
    CONFIG_FILE,
    DIGESTS_KEY,
    WEIGHTS_FILE,
    check_digests,
)
from align_keras.presets.table import (
    PAPER_VOCABULARY_SIZE,
    preset_config,
    preset_names,
)
from align_keras.presets.tower_costs import check_parameters
from align_keras.presets.variants import TRAINING_MODES
from align_keras.utils.arguments import (
    check_choice,
    did_you_mean,
    parameters_of,
    refuse_unknown,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json
from align_keras.utils.shared_data import SHIPPED_MODELS, find_shipped_model

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
    "compile",
    "name",
)
# Arguments of `Encoder.set_training`.
_TRAINING = ("training", "blocks", "rank")
# Mode of `Encoder.set_training` that has the argument.
_MODE_OF_ARGUMENT = {"blocks": "last_blocks", "rank": "lora"}


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
    training = {name: arguments.pop(name) for name in _TRAINING if name in arguments}
    if not training:
        return _open_preset(cls, preset, load_weights, revision, token, arguments)
    _check_training_arguments(training, arguments)
    if str(preset).endswith(".keras"):
        raise InputError(
            f"{' and '.join(training)} can't be set with a .keras file. Received: "
            f"{preset}. Open the file, and call set_training of its encoders."
        )
    if str(preset) not in preset_names():
        # The mode replaces the frozen layers of the preset.
        arguments["locked"] = False
    model = _open_preset(cls, preset, load_weights, revision, token, arguments)
    mode = training.pop("training")
    for encoder in (model.image_encoder, model.text_encoder):
        encoder.set_training(mode, **training)
    return model


def _check_training_arguments(training: dict, arguments: dict) -> None:
    """Raises unless the arguments of `set_training` fit together."""
    if "training" not in training:
        names = " and ".join(training)
        raise InputError(
            f"{names} can only be set with training. Received: training=None. Set "
            'training="last_blocks" or training="lora".'
        )
    check_choice("training", training["training"], TRAINING_MODES)
    for name, mode in _MODE_OF_ARGUMENT.items():
        if name in training and training["training"] != mode:
            raise InputError(
                f'{name} can only be set with training="{mode}". Received: '
                f"{name}={training[name]!r} and training={training['training']!r}. "
                f"Leave {name} out."
            )
    refused = [name for name in ("locked", "trainable") if name in arguments]
    if refused:
        raise InputError(
            f"{' and '.join(refused)} must be left out if training is set. Received: "
            f"training={training['training']!r}. Leave one of them out."
        )


def _open_preset(
    cls: type[keras.Model],
    preset: str | os.PathLike,
    load_weights: bool,
    revision: str | None,
    token: str | None,
    arguments: dict,
) -> keras.Model:
    """Opens a preset. `arguments` are those of `from_preset` that aren't None."""
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
        names = [*SHIPPED_MODELS, *preset_names()]
        remedy = did_you_mean(str(preset), names)
        remedy = remedy or f"The names of presets are {', '.join(names)}."
        raise InputError(
            "preset must be the name of a preset or the path of a folder. Received: "
            f"preset={preset}. {remedy}"
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
    return from_folder(cls, directory, load_weights, parts)


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
        "align": set(parameters_of(cls.from_encoders)) - {"dtype", *ENCODERS},
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
    return cls.from_encoders(image_encoder, text_encoder, **align)


def from_folder(
    cls: type[keras.Model], directory: pathlib.Path, load_weights: bool, parts: dict
) -> keras.Model:
    """Builds the model of a preset folder.

    Args:
        cls: `ALIGN`.
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
    digests = read_json(config_file).get(DIGESTS_KEY, {})
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
        config = read_preset_config(directory)
        replace_arguments(config, parts, directory)
        if load_weights:
            encoders = config["backbone"]["config"]
            image = encoders["image_encoder"]["config"]
            text = encoders["text_encoder"]["config"]
            names = TOWER_FILES if in_towers else (WEIGHTS_FILE,)
            files = [directory / name for name in names]
            # A quantized weight takes at least 4 bits, half a byte.
            most = 2 * sum(file.stat().st_size for file in files if file.exists())
            check_parameters(image, text, most, files[0])
        model = cls.from_config(config)
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

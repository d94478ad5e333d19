"""Opens the backbone of a preset.

A preset is a named size of ALIGN, or a folder of configuration, weights and vocabulary.
"""

import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any

import keras

from align_keras.models.conversion.hugging_face import from_hugging_face
from align_keras.models.conversion.litert_weights import load_litert_weights
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.text_encoder import TextEncoder
from align_keras.models.trainable_layers import CONFIG_KEY as TRAINABLE_KEY
from align_keras.presets.layout import (
    CONFIG_FILE,
    DIGESTS_KEY,
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
    WEIGHTS_FILE,
    check_digests,
)
from align_keras.presets.locate import is_hugging_face_folder, is_keras_file
from align_keras.presets.sizes import PAPER_VOCABULARY_SIZE, preset_config
from align_keras.presets.stored_config import damage_reported, read_backbone
from align_keras.presets.tower_costs import check_parameters
from align_keras.presets.variants import TRAINING_MODES
from align_keras.utils.arguments import check_choice, parameters_of, refuse_unknown
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

ENCODERS = ("image_encoder", "text_encoder")
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


def check_arguments(
    path: pathlib.Path | None, arguments: Iterable[str], names: Iterable[str]
) -> None:
    """Raises unless the arguments of `from_preset` exist and fit a preset.

    Args:
        path: folder of the preset, or None for a name.
        arguments: names of the received arguments.
        names: names of the arguments that the class has.
    """
    refuse_unknown("from_preset", arguments, sorted({*names, *_TRAINING}))
    if path is None:
        return
    refused = [name for name in arguments if name not in (*_FOR_FOLDERS, *_TRAINING)]
    if refused:
        raise InputError(
            f"{', '.join(refused)} can only be set with the name of a preset. "
            f"Received: the folder {path}, whose config.json defines the model. "
            "Leave the arguments out."
        )


def open_backbone(
    cls: type[keras.Model],
    preset: str | os.PathLike,
    path: pathlib.Path | None,
    load_weights: bool,
    arguments: dict[str, Any],
) -> keras.Model:
    """Builds the backbone of a preset.

    Args:
        cls: `ALIGNBackbone`, which imports this module.
        preset: preset, as for `ALIGN.from_preset`.
        path: its location according to `locate_preset`.
        load_weights: False builds the model of a folder with random weights.
        arguments: arguments of both encoders, of the backbone and of `set_training`.
    """
    if path is not None and is_keras_file(path):
        return open_keras_file(cls, path, load_weights, arguments).backbone
    check_arguments(path, arguments, argument_names(cls))
    arguments = dict(arguments)
    training = {name: arguments.pop(name) for name in _TRAINING if name in arguments}
    if training:
        _check_training_arguments(training)
        if path is not None:
            # The mode replaces the frozen layers of the preset.
            arguments["locked"] = False
    parts = _divide_arguments(cls, arguments)
    if path is None:
        backbone = _from_name(cls, str(preset), parts)
    elif is_hugging_face_folder(path):
        backbone = from_hugging_face(cls, path, load_weights, parts)
    else:
        backbone = _from_folder(cls, path, load_weights, parts)
    if training:
        mode = training.pop("training")
        for encoder in (backbone.image_encoder, backbone.text_encoder):
            encoder.set_training(mode, **training)
    return backbone


def open_keras_file(
    backbone_cls: type[keras.Model],
    path: pathlib.Path,
    load_weights: bool,
    arguments: Iterable[str],
) -> keras.Model:
    """Opens the `ALIGN` of a `.keras` file, with its optimizer if it was compiled."""
    names = [*arguments, *(() if load_weights else ("load_weights",))]
    if names:
        raise InputError(
            f"{', '.join(names)} can't be set with a .keras file. Received: {path}. "
            "Open the file without them, save the model with save_to_preset, and open "
            "that folder."
        )
    # Exceptions for a damaged archive, for other contents and for unregistered classes.
    errors = (OSError, RuntimeError, zipfile.BadZipFile)
    with damage_reported(f"{path} can't be opened", "Save the model again", errors):
        _check_archive(path)
        model = keras.saving.load_model(path)
    if not isinstance(getattr(model, "backbone", None), backbone_cls):
        raise InputError(
            f"{path} must contain an ALIGN. Received: a {type(model).__name__}. Open "
            "it with keras.saving.load_model."
        )
    return model


def _check_archive(path: pathlib.Path) -> None:
    """Raises if a file in an archive differs from its checksum."""
    # Python 3.13 doesn't verify the checksum of a file that is read with `seek`, and
    # h5py reads in this way.
    with zipfile.ZipFile(path) as archive:
        damaged_file = archive.testzip()
    if damaged_file is not None:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {damaged_file!r}")


def _check_training_arguments(training: dict) -> None:
    """Raises unless the arguments of `set_training` fit together."""
    for name, required_mode in _MODE_OF_ARGUMENT.items():
        mode = training.get("training")
        if name in training and mode != required_mode:
            raise InputError(
                f'{name} can only be set with training="{required_mode}". Received: '
                f"{name}={training[name]!r} and training={mode!r}."
            )
    check_choice("training", training["training"], TRAINING_MODES)


def argument_names(cls: type[keras.Model]) -> set[str]:
    """Returns the names of the arguments of the encoders and of the backbone."""
    return set().union(*_parameters(cls).values())


def _divide_arguments(cls: type[keras.Model], arguments: dict) -> dict[str, dict]:
    """Returns the arguments of each part. Both encoders may have the same arguments."""
    return {
        part: {name: arguments[name] for name in arguments if name in part_names}
        for part, part_names in _parameters(cls).items()
    }


def _parameters(cls: type[keras.Model]) -> dict[str, set[str]]:
    return {
        "image_encoder": set(parameters_of(ImageEncoder.__init__)) - {"name"},
        "text_encoder": set(parameters_of(TextEncoder.__init__)) - {"name"},
        "backbone": set(parameters_of(cls.__init__)) - {"dtype", *ENCODERS},
    }


def _from_name(cls: type[keras.Model], preset: str, parts: dict) -> keras.Model:
    """Builds a named preset with random weights. `parts` override its sizes."""
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
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
    text.setdefault("vocabulary_size", PAPER_VOCABULARY_SIZE)
    text.setdefault("sequence_length", sizes["sequence_length"])
    image.setdefault("image_size", sizes["image_size"])
    image_encoder = ImageEncoder.from_variant(
        sizes["image_encoder"], projection_dim=projection_dim, **image
    )
    text_encoder = TextEncoder.from_variant(
        sizes["text_encoder"], projection_dim=projection_dim, **text
    )
    return cls(image_encoder, text_encoder, **parts["backbone"])


def _from_folder(
    cls: type[keras.Model], directory: pathlib.Path, load_weights: bool, parts: dict
) -> keras.Model:
    """Builds the backbone of a folder. `parts` replace its saved arguments."""
    config_file, weights_file = directory / CONFIG_FILE, directory / WEIGHTS_FILE
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
    with damage_reported(f"{config_file} doesn't describe an ALIGN", remedy):
        config = read_backbone(directory)["config"]
        _replace_arguments(config, parts)
        if load_weights:
            image = config["image_encoder"]["config"]
            text = config["text_encoder"]["config"]
            names = TOWER_FILES if in_towers else (WEIGHTS_FILE,)
            files = [directory / name for name in names]
            # A quantized weight takes at least 4 bits, half a byte.
            most = 2 * sum(file.stat().st_size for file in files if file.exists())
            check_parameters(image, text, most, files[0])
        backbone = cls.from_config(config)
    if load_weights and in_towers:
        check_digests(digests, directory, [*TOWER_FILES, TABLE_FILE, REST_FILE])
        load_litert_weights(backbone, directory)
    elif load_weights:
        fault = f"{weights_file} is damaged or doesn't fit the {CONFIG_FILE} next to it"
        # h5py and Keras raise these exceptions.
        with damage_reported(fault, remedy, (OSError, RuntimeError)):
            backbone.load_weights(weights_file)
        # The digests are checked last, because the errors of `load_weights` name the
        # tensor that doesn't fit.
        check_digests(digests, directory, [WEIGHTS_FILE])
    return backbone


def _replace_arguments(backbone: dict[str, Any], parts: dict[str, dict]) -> None:
    """Replaces arguments in the configuration of a backbone, in place."""
    image = dict(parts["image_encoder"])
    text = dict(parts["text_encoder"])
    dtype = image.pop("dtype", None)
    text.pop("dtype", None)
    backbone.update(parts["backbone"])
    for encoder, changes in (("image_encoder", image), ("text_encoder", text)):
        backbone[encoder]["config"].update(changes)
        if changes.keys() & {"locked", "trainable"}:
            # The arguments replace the saved flags of single layers.
            backbone[encoder]["config"].pop(TRAINABLE_KEY, None)
            backbone.pop(TRAINABLE_KEY, None)
            backbone.pop("trainable", None)
    if "learn_temperature" in parts["backbone"] and TRAINABLE_KEY in backbone:
        learned = parts["backbone"]["learn_temperature"]
        backbone[TRAINABLE_KEY]["temperature"] = learned
    if dtype is not None:
        _replace_dtype(backbone, dtype)


def _replace_dtype(backbone: dict[str, Any], dtype: Any) -> None:
    """Sets the dtype policy of a backbone and its encoders."""
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
    for part in (backbone, *(backbone[key]["config"] for key in ENCODERS)):
        part["dtype"] = policy

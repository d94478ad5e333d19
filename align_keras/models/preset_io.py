"""Models by name, and folders of config, weights and vocabulary."""

import json
import pathlib

import keras

from align_keras.models.conversion.hugging_face import (
    HUB_PREFIX,
    download,
    from_hugging_face,
    read_json,
)
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.sizes import (
    PAPER_VOCABULARY_SIZE,
    image_encoder_arguments,
    preset_config,
    preset_names,
    text_encoder_arguments,
)
from align_keras.models.text_encoder import TextEncoder
from align_keras.text import save_vocabulary
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
VOCABULARY_FILE = "vocabulary.txt"
ENCODERS = ("image_encoder", "text_encoder")


def from_preset(cls, preset, load_weights=True, **kwargs):
    """As `ALIGN.from_preset`; `cls` is `ALIGN`."""
    if str(preset) in preset_names():
        return from_name(cls, str(preset), **kwargs)
    if str(preset).startswith(HUB_PREFIX):
        preset = download(str(preset))
    directory = pathlib.Path(preset)
    if not directory.is_dir():
        raise InputError(
            f"no preset and no folder of this name: {preset}; known presets are "
            f"{', '.join(preset_names())}."
        )
    dtype = kwargs.pop("dtype", None)
    if kwargs:
        raise InputError(
            f"{', '.join(kwargs)} can only be given with a preset's name, received "
            f"the folder {preset}; its own config.json says what the model is."
        )
    if "model_type" in read_json(directory / CONFIG_FILE):
        return from_hugging_face(cls, directory, load_weights, dtype)
    return from_folder(directory, load_weights, dtype)


def from_name(
    cls,
    name,
    *,
    vocabulary=None,
    vocabulary_size=None,
    image_size=None,
    sequence_length=None,
    projection_dim=None,
    dtype=None,
    **kwargs,
):
    """Builds a named preset with random weights; arguments override its sizes."""
    sizes = preset_config(name)
    projection_dim = projection_dim or sizes["projection_dim"]
    if vocabulary_size is None:
        vocabulary_size = len(vocabulary) if vocabulary else PAPER_VOCABULARY_SIZE
    image_encoder = ImageEncoder(
        image_size=image_size or sizes["image_size"],
        dtype=dtype,
        **image_encoder_arguments(sizes["image_encoder"], projection_dim),
    )
    text_encoder = TextEncoder(
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length or sizes["sequence_length"],
        projection_dim=projection_dim,
        dtype=dtype,
        **text_encoder_arguments(sizes["text_encoder"]),
    )
    return cls(image_encoder, text_encoder, vocabulary=vocabulary, **kwargs)


def save_to_preset(model, directory):
    """As `ALIGN.save_to_preset`; each file is written atomically."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / CONFIG_FILE) as file:
        json.dump(keras.saving.serialize_keras_object(model), file, indent=1)
    if model.vocabulary is not None:
        save_vocabulary(model.vocabulary, directory / VOCABULARY_FILE)
    temporary = directory / f".{WEIGHTS_FILE.replace('.weights', '.tmp.weights')}"
    model.save_weights(temporary, overwrite=True)
    temporary.replace(directory / WEIGHTS_FILE)


def from_folder(directory, load_weights, dtype=None):
    """Rebuilds the model that `save_to_preset` wrote; `dtype` replaces its own."""
    config_file = directory / CONFIG_FILE
    weights_file = directory / WEIGHTS_FILE
    if not config_file.exists():
        raise InputError(
            f"{directory} holds no {CONFIG_FILE}, so it isn't a preset or a finished "
            "run; finish the run by the command that started it."
        )
    config = read_json(config_file)
    if dtype is not None:
        replace_dtype(config["config"], dtype, directory)
    if config.get("class_name") != "ALIGN":
        raise InputError(
            f"{config_file} must describe an ALIGN, received "
            f"{config.get('class_name', 'no class_name')!r}; name the folder of a run, "
            "or one of Hugging Face's ALIGN."
        )
    model = keras.saving.deserialize_keras_object(config)
    if load_weights:
        if not weights_file.exists():
            raise InputError(
                f"{directory} holds no {WEIGHTS_FILE}; finish the run, or pass "
                "load_weights=False."
            )
        read_weights(model, weights_file)
    return model


def read_weights(model, path):
    """Loads a weights file, or says in one line why it can't be."""
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:  # h5py's and Keras's.
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is damaged or doesn't fit the {CONFIG_FILE} beside it "
            f"({reason[:400]}); save the model again, or finish the run."
        ) from None


def replace_dtype(config, dtype, directory):
    """Sets the dtype policy of ALIGN and of its encoders in a configuration."""
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
    for part in (config, *(config[key]["config"] for key in ENCODERS)):
        if (part.get("dtype") or {}).get("class_name") == "DTypePolicyMap":
            raise InputError(
                f"dtype can't be given for a quantized model, received {dtype} and "
                f"the folder {directory}; leave dtype out."
            )
        part["dtype"] = policy

"""Conversion of the sizes of ALIGN from and to the config.json of Hugging Face."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from align_keras.models.text_encoder import MOST, MOST_TOKENS
from align_keras.presets.hugging_face_processing import SEQUENCE_LENGTH, ImageProcessing
from align_keras.presets.variants import B0_STAGES, STEM_FILTERS
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError

MODEL_TYPE = "align"
# Settings of `transformers.AlignVisionConfig` and `AlignTextConfig` that are equal in
# all supported models. config.json may omit them, since they equal the defaults.
FIXED_VISION = {
    "num_channels": 3,
    "depth_divisor": 8,
    "kernel_sizes": [stage.kernel_size for stage in B0_STAGES],
    "in_channels": [STEM_FILTERS, *(stage.filters for stage in B0_STAGES[:-1])],
    "out_channels": [stage.filters for stage in B0_STAGES],
    "depthwise_padding": [],
    "strides": [stage.strides for stage in B0_STAGES],
    "num_block_repeats": [stage.repeats for stage in B0_STAGES],
    "expand_ratios": [stage.expand_ratio for stage in B0_STAGES],
    "squeeze_expansion_ratio": 0.25,
    "pooling_type": "mean",
}
FIXED_TEXT = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}


@dataclasses.dataclass(frozen=True)
class _NumberSetting:
    """Setting of config.json that is a number.

    Attributes:
        name: name in config.json.
        default: default in transformers, an int if the setting must be a whole number.
        least: smallest accepted value.
        most: largest accepted value. A larger value would cost much memory and hours
            before the first tensor is read.
    """

    name: str
    default: float
    least: float
    most: float


# Dict from an argument of `ImageEncoder` to its setting in config.json.
_VISION_NUMBERS = {
    "width_coefficient": _NumberSetting("width_coefficient", 2.0, 0.01, 10),
    "depth_coefficient": _NumberSetting("depth_coefficient", 3.1, 0.01, 10),
    "drop_connect_rate": _NumberSetting("drop_connect_rate", 0.2, 0, 1),
    # The momentum of PyTorch is 1 minus that of Keras, but transformers passes 0.99 to
    # PyTorch without converting it.
    "batch_norm_momentum": _NumberSetting("batch_norm_momentum", 0.99, 0, 1),
    "batch_norm_epsilon": _NumberSetting("batch_norm_eps", 1e-3, 1e-12, 1),
}
_TEXT_NUMBERS = {
    "vocabulary_size": _NumberSetting("vocab_size", 30522, 1, MOST["vocabulary_size"]),
    "num_layers": _NumberSetting("num_hidden_layers", 12, 1, MOST["num_layers"]),
    "hidden_dim": _NumberSetting("hidden_size", 768, 1, MOST["hidden_dim"]),
    "num_heads": _NumberSetting("num_attention_heads", 12, 1, MOST["num_heads"]),
    "intermediate_dim": _NumberSetting(
        "intermediate_size", 3072, 1, MOST["intermediate_dim"]
    ),
    "dropout": _NumberSetting("hidden_dropout_prob", 0.1, 0, 0.999),
    "max_sequence_length": _NumberSetting(
        "max_position_embeddings", 512, 3, MOST_TOKENS
    ),
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
}


def read_sizes(
    config: dict, processing: ImageProcessing, source: str
) -> tuple[dict, dict]:
    """Returns the arguments of `ImageEncoder` and of `TextEncoder`."""
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(
            f"{source}: model_type of config.json must be '{MODEL_TYPE}'. Received: "
            f"{config.get('model_type')!r}. Pass the folder of such a model."
        )
    projection_dim = config.get("projection_dim", 640)
    swish = ("swish", "silu")
    image, _ = _read_section(
        config, "vision_config", FIXED_VISION, _VISION_NUMBERS, swish, source
    )
    image["padding"] = "hugging_face"
    image.update(dataclasses.asdict(processing))
    text, activation = _read_section(
        config, "text_config", FIXED_TEXT, _TEXT_NUMBERS, tuple(ACTIVATIONS), source
    )
    text["activation"] = ACTIVATIONS[activation]
    text["sequence_length"] = min(SEQUENCE_LENGTH, text["max_sequence_length"])
    text["projection_dim"] = projection_dim
    return image, text


def _read_section(
    config: dict,
    name: str,
    fixed: dict,
    numbers: dict,
    activations: Sequence[str],
    source: str,
) -> tuple[dict, str]:
    """Returns the numbers and the activation of a section of config.json."""
    section = config.get(name) or {}
    activation = section.get("hidden_act", activations[0])
    check_choice(f"{source}: hidden_act", activation, activations)
    different = [key for key in fixed if section.get(key, fixed[key]) != fixed[key]]
    if different:
        expected = ", ".join(f"{key} {fixed[key]}" for key in different)
        received = ", ".join(f"{key} {section[key]}" for key in different)
        raise InputError(
            f"{source}: {name} must have {expected}. Received: {received}. Use a model "
            "with these settings."
        )
    sizes = {}
    for argument, setting in numbers.items():
        value = section.get(setting.name, setting.default)
        check_number(
            f"{source}: {name}.{setting.name}",
            value,
            setting.least,
            setting.most,
            whole=isinstance(setting.default, int),
        )
        sizes[argument] = value
    return sizes, activation


def write_config(model: keras.Model) -> dict:
    """Returns the content of config.json for a model."""
    check_representable(model)
    image, text = model.image_encoder, model.text_encoder
    return {
        "architectures": ["AlignModel"],
        "model_type": MODEL_TYPE,
        "projection_dim": text.projection_dim,
        "temperature_init_value": model.backbone.initial_temperature,
        "text_config": {
            "model_type": "align_text_model",
            **_numbers(text, _TEXT_NUMBERS),
            "attention_probs_dropout_prob": text.dropout,
            "hidden_act": "gelu" if text.activation == "gelu" else "gelu_new",
            **FIXED_TEXT,
        },
        "vision_config": {
            "model_type": "align_vision_model",
            **_numbers(image, _VISION_NUMBERS),
            "image_size": image.image_size,
            "hidden_act": "swish",
            "num_hidden_layers": 4 * len(image.blocks),
            **FIXED_VISION,
        },
    }


def _numbers(encoder: keras.Model, names: dict) -> dict[str, Any]:
    """Returns the numbers of an encoder by their name in config.json."""
    return {
        setting.name: getattr(encoder, argument) for argument, setting in names.items()
    }


def has_residual_stage_start(image_encoder: keras.Model) -> bool:
    """Returns True if the first block of a stage has a residual connection.

    In transformers, the first block of a stage never has one.
    """
    return any(
        block.has_residual
        for block in image_encoder.blocks
        if block.name.endswith("_1")
    )


def pads_alike(image_encoder: keras.Model, padding: str) -> bool:
    """Returns True if `padding` and the padding of the encoder give equal results.

    The results depend on the `image_size` of the encoder.
    """
    return image_encoder.padding == padding or not image_encoder.image_size % 32


def check_representable(model: keras.Model) -> None:
    """Raises if a part of the model doesn't exist in `transformers.AlignModel`."""
    image, text = model.image_encoder, model.text_encoder
    unsupported = {
        f"image_encoder.projection_dim {image.projection_dim} (no image projection)": (
            image.projection_dim is not None
        ),
        "image_encoder.lite": image.lite,
        f"image_encoder.num_stages {image.num_stages}": (
            image.num_stages != len(B0_STAGES)
        ),
        f"image_encoder.padding {image.padding} (different for odd sides, and the "
        f"image_size of {image.image_size} is not a multiple of 32)": (
            not pads_alike(image, "hugging_face")
        ),
        "image_encoder.num_classes": image.num_classes is not None,
        f"image_encoder.width_coefficient {image.width_coefficient} (a stage has the "
        "width of the stage before)": has_residual_stage_start(image),
        f"text_encoder.pooling {text.pooling}": text.pooling != "cls",
        "text_encoder.projection_dim None": text.projection_dim is None,
    }
    names = [name for name, applies in unsupported.items() if applies]
    if names:
        raise InputError(
            "A model must have only parts that transformers.AlignModel supports. "
            f"Received: {', '.join(names)}. Convert a model with [CLS] pooling whose "
            "projection_dim is the width of the image encoder."
        )

"""ALIGN's sizes between Hugging Face's config.json and ours."""

import dataclasses

import keras

from align_keras.models.conversion.hugging_face_processing import ImageProcessing
from align_keras.models.text_encoder import MOST, MOST_TOKENS
from align_keras.models.variants import B0_STAGES, STEM_FILTERS, scaled_stages
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError

MODEL_TYPE = "align"
SEQUENCE_LENGTH = 64
# What `transformers.AlignVisionConfig` and `AlignTextConfig` could say otherwise,
# but no ALIGN does. config.json leaves out what equals the class's default.
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
# Our names: theirs, their default, the least and the most that makes sense. Beyond it
# memory and hours would go into a model before the first tensor is looked at.
_VISION_NUMBERS = {
    "width_coefficient": ("width_coefficient", 2.0, 0.01, 10),
    "depth_coefficient": ("depth_coefficient", 3.1, 0.01, 10),
    "drop_connect_rate": ("drop_connect_rate", 0.2, 0, 1),
    # transformers hands 0.99 to PyTorch, which means the opposite by it.
    "batch_norm_momentum": ("batch_norm_momentum", 0.99, 0, 1),
    "batch_norm_epsilon": ("batch_norm_eps", 1e-3, 1e-12, 1),
}
_TEXT_NUMBERS = {
    "vocabulary_size": ("vocab_size", 30522, 1, MOST["vocabulary_size"]),
    "num_layers": ("num_hidden_layers", 12, 1, MOST["num_layers"]),
    "hidden_dim": ("hidden_size", 768, 1, MOST["hidden_dim"]),
    "num_heads": ("num_attention_heads", 12, 1, MOST["num_heads"]),
    "intermediate_dim": ("intermediate_size", 3072, 1, MOST["intermediate_dim"]),
    "dropout": ("hidden_dropout_prob", 0.1, 0, 0.999),
    "max_sequence_length": ("max_position_embeddings", 512, 3, MOST_TOKENS),
}
_ACTIVATIONS = {
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
            f"{source}: config.json must be of model_type '{MODEL_TYPE}', received "
            f"{config.get('model_type')!r}; name the folder of such a model."
        )
    projection_dim = config.get("projection_dim", 640)
    swish = ("swish", "silu")
    image, _ = _read_section(
        config, "vision_config", FIXED_VISION, _VISION_NUMBERS, swish, source
    )
    width = scaled_stages(image["width_coefficient"], image["depth_coefficient"])
    if width[-1].filters != projection_dim:
        raise InputError(
            f"{source}: projection_dim must be the image tower's width, "
            f"{width[-1].filters}, received {projection_dim}; transformers' ALIGN has "
            "no projection of the image."
        )
    image["padding"] = "hugging_face"
    image.update(dataclasses.asdict(processing))
    text, activation = _read_section(
        config, "text_config", FIXED_TEXT, _TEXT_NUMBERS, tuple(_ACTIVATIONS), source
    )
    text["activation"] = _ACTIVATIONS[activation]
    text["sequence_length"] = min(SEQUENCE_LENGTH, text["max_sequence_length"])
    text["projection_dim"] = projection_dim
    return image, text


def _read_section(config, name, fixed, numbers, activations, source):
    """Reads a section's numbers, whole where the default is, and its activation."""
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise InputError(
            f"{source}: config.json's {name} must be a JSON object, received "
            f"{section!r:.80}; get the file again."
        )
    activation = section.get("hidden_act", activations[0])
    check_choice(f"{source}: hidden_act", activation, activations)
    other = [key for key in fixed if section.get(key, fixed[key]) != fixed[key]]
    if other:
        wanted, received = (
            ", ".join(f"{key} {values[key]}" for key in other)
            for values in (fixed, section)
        )
        raise InputError(
            f"{source}: {name} must have {wanted}, received {received}; no other ALIGN "
            "can be loaded."
        )
    sizes = {}
    for ours, (theirs, default, least, most) in numbers.items():
        sizes[ours] = section.get(theirs, default)
        whole = isinstance(default, int)
        check_number(f"{source}: {name}.{theirs}", sizes[ours], least, most, whole)
    return sizes, activation


def write_config(model: keras.Model) -> dict:
    """Returns the content of config.json for a model."""
    check_representable(model)
    image, text = model.image_encoder, model.text_encoder
    return {
        "architectures": ["AlignModel"],
        "model_type": MODEL_TYPE,
        "projection_dim": text.projection_dim,
        "temperature_init_value": model.initial_temperature,
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


def _numbers(encoder, names):
    """Returns the encoder's numbers by their names for them."""
    return {theirs: getattr(encoder, ours) for ours, (theirs, *_) in names.items()}


def has_stage_as_wide(image_encoder: keras.Model) -> bool:
    """Returns whether a stage's first block adds its input; transformers' never do."""
    return any(
        block.has_residual
        for block in image_encoder.blocks
        if block.name.endswith("_1")
    )


def pads_alike(image_encoder: keras.Model, padding: str) -> bool:
    """Returns whether `padding` is the encoder's, or all sides halved are even."""
    return image_encoder.padding == padding or not image_encoder.image_size % 32


def check_representable(model: keras.Model) -> None:
    """Raises if `transformers.AlignModel` has no place for a part of the model."""
    image, text = model.image_encoder, model.text_encoder
    foreign = {
        f"image_encoder.projection_dim {image.projection_dim} (it has no projection "
        "of the image)": image.projection_dim is not None,
        "image_encoder.lite": image.lite,
        f"image_encoder.num_stages {image.num_stages}": (
            image.num_stages != len(B0_STAGES)
        ),
        f"image_encoder.padding {image.padding} (it pads an odd side otherwise, and "
        f"the image_size of {image.image_size} is no multiple of 32)": (
            not pads_alike(image, "hugging_face")
        ),
        "image_encoder.num_classes": image.num_classes is not None,
        f"image_encoder.width_coefficient {image.width_coefficient} (a stage as wide "
        "as the one before)": has_stage_as_wide(image),
        f"text_encoder.pooling {text.pooling}": text.pooling != "cls",
        "text_encoder.projection_dim None": text.projection_dim is None,
    }
    names = [name for name, is_there in foreign.items() if is_there]
    if names:
        raise InputError(
            f"transformers.AlignModel has no place for {', '.join(names)}; a model "
            "whose projection_dim is the image tower's own width, with [CLS] pooling, "
            "can be converted."
        )

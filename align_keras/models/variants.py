"""Named sizes of both encoders: EfficientNets and text backbones."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# === Image encoders: EfficientNet's compound scaling ===


class Stage(NamedTuple):
    """One row of EfficientNet's table: a block repeated."""

    kernel_size: int
    strides: int
    expand_ratio: int
    filters: int
    repeats: int


# Tan and Le 2019, table 1.
B0_STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
STEM_FILTERS = 32
HEAD_FILTERS = 1280


class ImageEncoderSize(NamedTuple):
    """Named size of an EfficientNet: scalings, native resolution and architecture."""

    width_coefficient: float
    depth_coefficient: float
    image_size: int
    lite: bool = False


# B0–B7: Tan and Le 2019 and its reference code; B8: Xie et al. 2020 (AdvProp);
# L2: Xie et al. 2020 (Noisy Student); Lite0–Lite4: Liu 2020, "Higher accuracy on
# vision models with EfficientNet-Lite". The two sizes narrower than B0 are for small
# machines, and are not from a paper.
IMAGE_VARIANTS = {
    "efficientnet_nano": ImageEncoderSize(0.5, 0.5, 64),
    "efficientnet_micro": ImageEncoderSize(0.75, 0.75, 96),
    "efficientnet_b0": ImageEncoderSize(1.0, 1.0, 224),
    "efficientnet_b1": ImageEncoderSize(1.0, 1.1, 240),
    "efficientnet_b2": ImageEncoderSize(1.1, 1.2, 260),
    "efficientnet_b3": ImageEncoderSize(1.2, 1.4, 300),
    "efficientnet_b4": ImageEncoderSize(1.4, 1.8, 380),
    "efficientnet_b5": ImageEncoderSize(1.6, 2.2, 456),
    "efficientnet_b6": ImageEncoderSize(1.8, 2.6, 528),
    "efficientnet_b7": ImageEncoderSize(2.0, 3.1, 600),
    "efficientnet_b8": ImageEncoderSize(2.2, 3.6, 672),
    "efficientnet_l2": ImageEncoderSize(4.3, 5.3, 800),
    "efficientnet_lite0": ImageEncoderSize(1.0, 1.0, 224, lite=True),
    "efficientnet_lite1": ImageEncoderSize(1.0, 1.1, 240, lite=True),
    "efficientnet_lite2": ImageEncoderSize(1.1, 1.2, 260, lite=True),
    "efficientnet_lite3": ImageEncoderSize(1.2, 1.4, 280, lite=True),
    "efficientnet_lite4": ImageEncoderSize(1.4, 1.8, 300, lite=True),
}


def round_filters(filters: int, width_coefficient: float) -> int:
    """Scales a number of channels to a multiple of 8, at most 10% below."""
    scaled = filters * width_coefficient
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stem_filters(width_coefficient: float, lite: bool = False) -> int:
    """Returns the number of channels of the stem, which Lite doesn't scale."""
    return STEM_FILTERS if lite else round_filters(STEM_FILTERS, width_coefficient)


def head_filters(width_coefficient: float, lite: bool = False) -> int:
    """Returns the number of channels of the 1×1 head, which Lite doesn't scale."""
    return HEAD_FILTERS if lite else round_filters(HEAD_FILTERS, width_coefficient)


def scaled_stages(
    width_coefficient: float,
    depth_coefficient: float,
    lite: bool = False,
    num_stages: int = len(B0_STAGES),
) -> tuple[Stage, ...]:
    """Returns the first stages of B0, scaled.

    Lite doesn't scale the depth of the first and of the last stage.
    """
    check_number("width_coefficient", width_coefficient, 0.01, 10)
    check_number("depth_coefficient", depth_coefficient, 0.01, 10)
    check_number("num_stages", num_stages, 1, len(B0_STAGES), whole=True)
    ends = (0, len(B0_STAGES) - 1) if lite else ()
    return tuple(
        stage._replace(
            filters=round_filters(stage.filters, width_coefficient),
            repeats=stage.repeats
            if number in ends
            else math.ceil(stage.repeats * depth_coefficient),
        )
        for number, stage in enumerate(B0_STAGES[:num_stages])
    )


def image_encoder_arguments(
    variant: str, projection_dim: int | None, **arguments: Any
) -> dict:
    """Returns arguments of `ImageEncoder`: the variant's sizes and `arguments`.

    The encoder has no projection if the last block has the width of the embedding and
    no class probabilities are appended.

    Args:
        variant: str, a key of `IMAGE_VARIANTS`, with or without "efficientnet_".
        projection_dim: int or None, width of the embedding.
        **arguments: arguments of `ImageEncoder` that replace the variant's. None leaves
            an argument out.
    """
    sizes = _variant("image", variant, IMAGE_VARIANTS, "efficientnet_")._asdict()
    del sizes["image_size"]
    sizes["num_stages"] = len(B0_STAGES)
    overrides = {name: value for name, value in arguments.items() if value is not None}
    sizes |= overrides
    stages = scaled_stages(
        width_coefficient=sizes["width_coefficient"],
        depth_coefficient=sizes["depth_coefficient"],
        lite=sizes["lite"],
        num_stages=sizes["num_stages"],
    )
    has_width = stages[-1].filters == projection_dim
    if has_width and "num_classes" not in overrides:
        projection_dim = None
    return {**sizes, "projection_dim": projection_dim}


# === Text encoders ===


class Architecture(NamedTuple):
    """Text backbone of KerasHub that is made of `TransformerEncoder` layers."""

    keras_hub_class: str
    segments: int | None = None
    # Width of the token embeddings if it differs from that of the layers.
    embedding_dim: int | None = None
    # All layers share the weights of one.
    shares_layers: bool = False
    # Name of a layer after the last one, whose output is unused.
    pooler: str | None = None
    vocabulary_argument: str = "vocabulary_size"


# Other backbones of `keras_hub.models` with these inputs and layers can be added.
ARCHITECTURES = {
    "bert": Architecture("BertBackbone", segments=2, pooler="pooled_dense"),
    "distil_bert": Architecture("DistilBertBackbone"),
    "albert": Architecture("AlbertBackbone", 2, 128, True, "pooled_dense"),
    # Only the small size has token embeddings that are narrower than the layers.
    "electra": Architecture(
        "ElectraBackbone", 2, 128, False, "pooled_dense", "vocab_size"
    ),
}


class TextEncoderSize(NamedTuple):
    """A named size of an architecture."""

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    architecture: str = "bert"


# BERT: Turc et al. 2019. Base and large: Devlin et al. 2019.
TEXT_VARIANTS = {
    "bert_tiny": TextEncoderSize(2, 128, 2, 512),
    "bert_mini": TextEncoderSize(4, 256, 4, 1024),
    "bert_medium": TextEncoderSize(8, 512, 8, 2048),
    "bert_base": TextEncoderSize(12, 768, 12, 3072),
    "bert_large": TextEncoderSize(24, 1024, 16, 4096),
    # Sanh et al. 2019, "DistilBERT".
    "distil_bert_base": TextEncoderSize(6, 768, 12, 3072, "distil_bert"),
    # Lan et al. 2020, "ALBERT".
    "albert_base": TextEncoderSize(12, 768, 12, 3072, "albert"),
    "albert_large": TextEncoderSize(24, 1024, 16, 4096, "albert"),
    # Clark et al. 2020, "ELECTRA".
    "electra_small": TextEncoderSize(12, 256, 4, 1024, "electra"),
    # Wang et al. 2020, "MiniLM".
    "minilm_l6": TextEncoderSize(6, 384, 12, 1536),
}


def text_encoder_arguments(variant: str) -> dict:
    """Returns arguments of `TextEncoder`: architecture, layers, widths and heads."""
    return _variant("text", variant, TEXT_VARIANTS)._asdict()


def _variant(
    kind: str, name: str, variants: Mapping[str, Any], prefix: str = ""
) -> Any:
    """Returns the sizes of a variant by its name, or by the name without a prefix."""
    if name not in variants and prefix + str(name) not in variants:
        raise InputError(
            f"unknown {kind}_encoder variant {name!r}; known are {', '.join(variants)}."
        )
    return variants[name if name in variants else prefix + name]

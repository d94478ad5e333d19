"""Named sizes of both encoders: EfficientNets and text backbones."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from align_keras.utils.arguments import check_choice, check_number

# Modes of `Encoder.set_training`. `TrainingMode` of the configuration lists them too.
TRAINING_MODES = ("frozen", "projection", "last_blocks", "lora", "full")
# Number of blocks that the mode "last_blocks" trains by default.
DEFAULT_BLOCKS = 2
# Rank of the factors that the mode "lora" trains by default, as in peft.
DEFAULT_RANK = 8

# === Image encoders, with the compound scaling of EfficientNet ===


class Stage(NamedTuple):
    """Stage of EfficientNet, a number of equal blocks."""

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
    """Scaling and image size of a named EfficientNet.

    `image_size` is the resolution of its paper in pixels.
    """

    width_coefficient: float
    depth_coefficient: float
    image_size: int
    lite: bool = False


# The sources are Tan and Le 2019 with its reference code (B0 to B7), Xie et al. 2020,
# "AdvProp" (B8), Xie et al. 2020, "Noisy Student" (L2), and Liu 2020, "Higher accuracy
# on vision models with EfficientNet-Lite" (Lite0 to Lite4). Nano and micro are for
# small machines, and are not from a paper.
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
    """Scales a number of channels and rounds it to a multiple of 8.

    Rounding reduces the scaled number by at most 10%.
    """
    scaled = filters * width_coefficient
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stem_filters(width_coefficient: float, lite: bool = False) -> int:
    """Returns the number of channels of the stem, which isn't scaled for Lite."""
    return STEM_FILTERS if lite else round_filters(STEM_FILTERS, width_coefficient)


def head_filters(width_coefficient: float, lite: bool = False) -> int:
    """Returns the number of channels of the 1×1 head, which isn't scaled for Lite."""
    return HEAD_FILTERS if lite else round_filters(HEAD_FILTERS, width_coefficient)


def scaled_stages(
    width_coefficient: float,
    depth_coefficient: float,
    lite: bool = False,
    num_stages: int = len(B0_STAGES),
) -> tuple[Stage, ...]:
    """Returns the first `num_stages` stages of B0 after scaling.

    Lite doesn't scale the depth of the first and the last stage.
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
    """Returns the arguments of `ImageEncoder` for a variant.

    The encoder has no projection if the last block has the width of the embedding and
    no class probabilities are appended.

    Args:
        variant: a key of `IMAGE_VARIANTS`, with or without "efficientnet_".
        projection_dim: width of the embedding.
        **arguments: arguments of `ImageEncoder`, which override those of the variant.
            An argument that is None is ignored.
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
    """Text backbone of KerasHub that consists of `TransformerEncoder` layers.

    Attributes:
        keras_hub_class: name of the class in `keras_hub.models`.
        segments: number of segment embeddings, or None.
        embedding_dim: width of the token embeddings, or None if it is that of the
            layers.
        shares_layers: True if all layers share the same weights.
        pooler: name of a dense layer after the last layer, or None. Its output
            isn't used.
        vocabulary_argument: name of the argument for the vocabulary size.
    """

    keras_hub_class: str
    segments: int | None = None
    embedding_dim: int | None = None
    shares_layers: bool = False
    pooler: str | None = None
    vocabulary_argument: str = "vocabulary_size"


# Backbones of `keras_hub.models` with the same inputs and layers can be added.
ARCHITECTURES = {
    "bert": Architecture("BertBackbone", segments=2, pooler="pooled_dense"),
    "distil_bert": Architecture("DistilBertBackbone"),
    "albert": Architecture("AlbertBackbone", 2, 128, True, "pooled_dense"),
    # Only the small ELECTRA has token embeddings that are narrower than its layers.
    "electra": Architecture(
        "ElectraBackbone", 2, 128, False, "pooled_dense", "vocab_size"
    ),
}


class TextEncoderSize(NamedTuple):
    """Named size of a text encoder."""

    num_layers: int
    hidden_dim: int
    num_heads: int
    intermediate_dim: int
    architecture: str = "bert"


# The sizes of BERT are from Turc et al. 2019, base and large from Devlin et al. 2019.
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
    """Returns the arguments of `TextEncoder` for a variant."""
    return _variant("text", variant, TEXT_VARIANTS)._asdict()


def _variant(
    kind: str, name: str, variants: Mapping[str, Any], prefix: str = ""
) -> Any:
    """Returns the sizes of a variant by its name, with or without the prefix."""
    whole_name = name if name in variants else f"{prefix}{name}"
    check_choice(f"The variant of the {kind}_encoder", whole_name, variants)
    return variants[whole_name]

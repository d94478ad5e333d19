"""Named sizes of ALIGN: the paper's grid and small ones."""

from align_keras.models import bert, efficientnet
from align_keras.utils.errors import InputError

PAPER_PROJECTION_DIM = 640
PAPER_VOCABULARY_SIZE = 100_000
# The largest model's image encoder has no projection (Jia et al. 2021, sections 4.1
# and 5); in the ablations, the rest of the grid, all are projected to 640 but B7,
# which is as wide (section 6.1).
_PROJECTION_DIMS = {"align_l2_large": 1376}
_PAPER_IMAGE_SIZE = 289
_PAPER_IMAGE_ENCODERS = ("b1", "b3", "b5", "b7", "l2")
_PAPER_TEXT_ENCODERS = ("mini", "medium", "base", "large")


def preset_names():
    """Returns the names that `ALIGN.from_preset` takes, as a list of str.

    Example:

    >>> "align_b7_base" in preset_names()
    True
    """
    paper = [
        f"align_{image}_{text}"
        for image in _PAPER_IMAGE_ENCODERS
        for text in _PAPER_TEXT_ENCODERS
    ]
    return ["align_nano", "align_micro", *paper]


def preset_config(name):
    """Returns the sizes of a preset.

    Args:
        name: str, one of `preset_names()`.

    Returns:
        dict of `image_encoder` and `text_encoder`, the names of their
        variants; `image_size`, `sequence_length`, `projection_dim`.

    Raises:
        InputError: if the name is unknown; lists the known ones.

    Example:

    >>> [preset_config(f"align_l2_{text}")["projection_dim"]
    ...  for text in ("base", "large")]
    [640, 1376]
    """
    if name == "align_nano":
        return _sizes("efficientnet_nano", "bert_tiny", 64, 16, 256)
    if name == "align_micro":
        return _sizes("efficientnet_micro", "bert_mini", 96, 32, 256)
    if name not in preset_names():
        raise InputError(
            f"unknown preset {name!r}; known are {', '.join(preset_names())}, or "
            "give the folder of a run."
        )
    _, image, text = name.split("_")
    dim = _PROJECTION_DIMS.get(name, PAPER_PROJECTION_DIM)
    return _sizes(f"efficientnet_{image}", f"bert_{text}", _PAPER_IMAGE_SIZE, 64, dim)


def _sizes(image_encoder, text_encoder, image_size, sequence_length, projection_dim):
    return {
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
        "image_size": image_size,
        "sequence_length": sequence_length,
        "projection_dim": projection_dim,
    }


def image_encoder_arguments(
    variant,
    projection_dim,
    width_coefficient=None,
    depth_coefficient=None,
    num_classes=None,
):
    """Returns `ImageEncoder`'s coefficients and its projection.

    The projection is None where the last block is as wide as the embedding, and
    no class probabilities stand beside it.

    Args:
        variant: str, a key of `efficientnet.VARIANTS`.
        projection_dim: int, width of the embedding.
        width_coefficient: float or None, instead of the variant's.
        depth_coefficient: float or None, instead of the variant's.
        num_classes: int or None, see `ImageEncoder`.

    Returns:
        dict of `width_coefficient`, `depth_coefficient`, `lite`,
        `projection_dim`, `num_classes`.

    Raises:
        InputError: if the variant is unknown.
    """
    _check_variant("image_encoder", variant, efficientnet.VARIANTS)
    sizes = efficientnet.VARIANTS[variant]
    width = width_coefficient or sizes.width_coefficient
    depth = depth_coefficient or sizes.depth_coefficient
    own_width = efficientnet.scaled_stages(width, depth, sizes.lite)[-1].filters
    fits = own_width == projection_dim and num_classes is None
    return {
        "width_coefficient": width,
        "depth_coefficient": depth,
        "lite": sizes.lite,
        "projection_dim": None if fits else projection_dim,
        "num_classes": num_classes,
    }


def text_encoder_arguments(variant):
    """Returns `TextEncoder`'s sizes: layers, widths and heads.

    Args:
        variant: str, a key of `bert.VARIANTS`.

    Returns:
        dict of `num_layers`, `hidden_dim`, `num_heads`, `intermediate_dim`.

    Raises:
        InputError: if the variant is unknown.
    """
    _check_variant("text_encoder", variant, bert.VARIANTS)
    layers, width, heads, intermediate = bert.VARIANTS[variant]
    return {
        "num_layers": layers,
        "hidden_dim": width,
        "num_heads": heads,
        "intermediate_dim": intermediate,
    }


def _check_variant(argument, variant, known):
    if variant not in known:
        raise InputError(
            f"unknown {argument} variant {variant!r}; known are {', '.join(known)}."
        )

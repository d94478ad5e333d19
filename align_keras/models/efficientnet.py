"""EfficientNet's compound scaling: the stages of every variant as data."""

import dataclasses
import math
from typing import NamedTuple

from align_keras.utils.arguments import check_number


@dataclasses.dataclass(frozen=True)
class Stage:
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


class Variant(NamedTuple):
    """A named size: two scalings, the native resolution, and the Lite changes."""

    width_coefficient: float
    depth_coefficient: float
    image_size: int
    lite: bool = False


# B0–B7: Tan and Le 2019 and its reference code; B8: Xie et al. 2020 (AdvProp);
# L2: Xie et al. 2020 (Noisy Student); Lite0–Lite4: Liu 2020, "Higher accuracy on
# vision models with EfficientNet-Lite". Narrower than B0: ours, for small machines.
VARIANTS = {
    "efficientnet_nano": Variant(0.5, 0.5, 64),
    "efficientnet_micro": Variant(0.75, 0.75, 96),
    "efficientnet_b0": Variant(1.0, 1.0, 224),
    "efficientnet_b1": Variant(1.0, 1.1, 240),
    "efficientnet_b2": Variant(1.1, 1.2, 260),
    "efficientnet_b3": Variant(1.2, 1.4, 300),
    "efficientnet_b4": Variant(1.4, 1.8, 380),
    "efficientnet_b5": Variant(1.6, 2.2, 456),
    "efficientnet_b6": Variant(1.8, 2.6, 528),
    "efficientnet_b7": Variant(2.0, 3.1, 600),
    "efficientnet_b8": Variant(2.2, 3.6, 672),
    "efficientnet_l2": Variant(4.3, 5.3, 800),
    "efficientnet_lite0": Variant(1.0, 1.0, 224, lite=True),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, lite=True),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, lite=True),
    "efficientnet_lite3": Variant(1.2, 1.4, 280, lite=True),
    "efficientnet_lite4": Variant(1.4, 1.8, 300, lite=True),
}


def round_filters(filters, width_coefficient, divisor=8):
    """Scales a number of channels and rounds it to a multiple of `divisor`.

    Args:
        filters: int, of EfficientNet-B0.
        width_coefficient: float > 0.
        divisor: int.

    Returns:
        int ≥ `divisor`, never more than 10% below the exact value.

    Example:

    >>> round_filters(320, 2.0), round_filters(320, 4.3)
    (640, 1376)
    """
    scaled = filters * width_coefficient
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def stem_filters(width_coefficient, lite=False):
    """Returns the stem's number of channels; Lite doesn't scale it."""
    return STEM_FILTERS if lite else round_filters(STEM_FILTERS, width_coefficient)


def head_filters(width_coefficient, lite=False):
    """Returns the 1×1 head's number of channels; Lite doesn't scale it."""
    return HEAD_FILTERS if lite else round_filters(HEAD_FILTERS, width_coefficient)


def scaled_stages(width_coefficient, depth_coefficient, lite=False):
    """Returns B0's stages, scaled, as a tuple of `Stage`.

    Lite doesn't repeat its first and its last stage. Raises InputError for coefficients
    that aren't from 0.01 to 10.
    """
    check_number("width_coefficient", width_coefficient, 0.01, 10)
    check_number("depth_coefficient", depth_coefficient, 0.01, 10)
    ends = (0, len(B0_STAGES) - 1) if lite else ()
    return tuple(
        dataclasses.replace(
            stage,
            filters=round_filters(stage.filters, width_coefficient),
            repeats=stage.repeats
            if number in ends
            else math.ceil(stage.repeats * depth_coefficient),
        )
        for number, stage in enumerate(B0_STAGES)
    )

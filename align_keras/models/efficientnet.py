"""EfficientNet's compound scaling: the stages of every variant as data."""

import dataclasses
import math


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

# width coefficient, depth coefficient, native resolution. B0–B7: Tan and Le
# 2019 and its reference code; B8: Xie et al. 2020 (AdvProp); L2: Xie et al.
# 2020 (Noisy Student). Below B0: ours, for small machines.
VARIANTS = {
    "efficientnet_nano": (0.5, 0.5, 64),
    "efficientnet_micro": (0.75, 0.75, 96),
    "efficientnet_b0": (1.0, 1.0, 224),
    "efficientnet_b1": (1.0, 1.1, 240),
    "efficientnet_b2": (1.1, 1.2, 260),
    "efficientnet_b3": (1.2, 1.4, 300),
    "efficientnet_b4": (1.4, 1.8, 380),
    "efficientnet_b5": (1.6, 2.2, 456),
    "efficientnet_b6": (1.8, 2.6, 528),
    "efficientnet_b7": (2.0, 3.1, 600),
    "efficientnet_b8": (2.2, 3.6, 672),
    "efficientnet_l2": (4.3, 5.3, 800),
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


def scaled_stages(width_coefficient, depth_coefficient):
    """Returns B0's stages, scaled, as a tuple of `Stage`."""
    return tuple(
        dataclasses.replace(
            stage,
            filters=round_filters(stage.filters, width_coefficient),
            repeats=math.ceil(stage.repeats * depth_coefficient),
        )
        for stage in B0_STAGES
    )

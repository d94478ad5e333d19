"""The image encoder: an EfficientNet without its 1×1 head."""

import keras

from align_keras.layers import FusedBatchNormalization, MBConvBlock
from align_keras.layers.mbconv_block import CONV_INITIALIZER, strided_padding
from align_keras.models.efficientnet import STEM_FILTERS, round_filters, scaled_stages
from align_keras.utils.errors import InputError

MINIMUM_IMAGE_SIZE = 32


@keras.saving.register_keras_serializable(package="align_keras")
class ImageEncoder(keras.Model):
    """EfficientNet with global pooling and an optional linear projection.

    Args:
        width_coefficient: float > 0, EfficientNet's width scaling.
        depth_coefficient: float > 0, EfficientNet's depth scaling.
        image_size: int ≥ 32, side of the input in pixels.
        projection_dim: int or None. None leaves the last block's width, as the
            paper does for B7 (640) and L2 (1376).
        drop_connect_rate: float in [0, 1), of the last block; it grows
            linearly from 0 with the block's number.
        batch_norm_momentum: float.
        batch_norm_epsilon: float.
        synchronized: bool, batch statistics over all replicas.

    Call arguments:
        inputs: uint8 or float tensor (n, image_size, image_size, 3), grey
            levels in [0, 255]; the scaling to [-1, 1] is part of the model.

    Returns:
        float tensor (n, projection_dim or the last block's width), not
        normalised.

    Raises:
        InputError: if `image_size` is below 32.

    References:
        Jia et al. 2021, section 4.1 (global pooling, no 1×1 convolution in the
        head) and section 6.1 (linear layer to 640 in the ablations).

    Example:

    >>> import numpy as np
    >>> encoder = ImageEncoder(
    ...     width_coefficient=0.35, depth_coefficient=0.5, image_size=64)
    >>> encoder(np.zeros((2, 64, 64, 3), "uint8")).shape
    TensorShape([2, 112])
    """

    def __init__(
        self,
        *,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=289,
        projection_dim=None,
        drop_connect_rate=0.2,
        batch_norm_momentum=0.99,
        batch_norm_epsilon=1e-3,
        synchronized=False,
        name="image_encoder",
        **kwargs,
    ):
        if image_size < MINIMUM_IMAGE_SIZE:
            raise InputError(
                f"image_size must be at least {MINIMUM_IMAGE_SIZE}, received "
                f"{image_size}; smaller pictures vanish in the strides."
            )
        # === Layers ===
        norm = {
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_epsilon": batch_norm_epsilon,
            "synchronized": synchronized,
        }
        blocks = make_blocks(
            width_coefficient, depth_coefficient, drop_connect_rate, norm
        )

        # === Functional model ===
        inputs = keras.Input((image_size, image_size, 3), name="images")
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(inputs)
        x = stem(x, round_filters(STEM_FILTERS, width_coefficient), norm)
        for block in blocks:
            x = block(x)
        outputs = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
        if projection_dim is not None:
            projection = keras.layers.Dense(projection_dim, name="projection")
            outputs = projection(outputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)

        # === Config ===
        self.width_coefficient = width_coefficient
        self.depth_coefficient = depth_coefficient
        self.image_size = image_size
        self.projection_dim = projection_dim
        self.drop_connect_rate = drop_connect_rate
        self.batch_norm_momentum = batch_norm_momentum
        self.batch_norm_epsilon = batch_norm_epsilon
        self.synchronized = synchronized

    def get_config(self):
        return {
            "width_coefficient": self.width_coefficient,
            "depth_coefficient": self.depth_coefficient,
            "image_size": self.image_size,
            "projection_dim": self.projection_dim,
            "drop_connect_rate": self.drop_connect_rate,
            "batch_norm_momentum": self.batch_norm_momentum,
            "batch_norm_epsilon": self.batch_norm_epsilon,
            "synchronized": self.synchronized,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def stem(images, filters, norm):
    """Stride-2 convolution, batch normalisation and swish on scaled pictures."""
    x = keras.layers.ZeroPadding2D(strided_padding(3), name="stem_pad")(images)
    x = keras.layers.Conv2D(
        filters,
        3,
        strides=2,
        use_bias=False,
        kernel_initializer=CONV_INITIALIZER,
        name="stem",
    )(x)
    x = FusedBatchNormalization(
        momentum=norm["batch_norm_momentum"],
        epsilon=norm["batch_norm_epsilon"],
        synchronized=norm["synchronized"],
        name="stem_norm",
    )(x)
    return keras.layers.Activation("silu", name="stem_activation")(x)


def make_blocks(width_coefficient, depth_coefficient, drop_connect_rate, norm):
    """Returns the list of all `MBConvBlock`s, in order."""
    stages = scaled_stages(width_coefficient, depth_coefficient)
    total = sum(stage.repeats for stage in stages)
    filters_in = round_filters(STEM_FILTERS, width_coefficient)
    blocks = []
    for number, stage in enumerate(stages, start=1):
        for repeat in range(stage.repeats):
            blocks.append(
                MBConvBlock(
                    filters_in,
                    stage.filters,
                    kernel_size=stage.kernel_size,
                    strides=stage.strides if repeat == 0 else 1,
                    expand_ratio=stage.expand_ratio,
                    drop_connect_rate=drop_connect_rate * len(blocks) / total,
                    name=f"block_{number}_{repeat + 1}",
                    **norm,
                )
            )
            filters_in = stage.filters
    return blocks

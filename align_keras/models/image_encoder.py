"""Image encoder: an EfficientNet with pooling and an optional projection."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from align_keras.layers import Activation, FusedBatchNormalization, MBConvBlock
from align_keras.layers.mbconv_block import CONV_INITIALIZER, PADDINGS, strided_padding
from align_keras.models.encoder import Encoder
from align_keras.models.trainable_layers import trainable_flags
from align_keras.presets import variants
from align_keras.utils.arguments import (
    check_choice,
    check_number,
    parameters_of,
    refuse_unknown,
)


@keras.saving.register_keras_serializable(package="align_keras")
class ImageEncoder(Encoder):
    """EfficientNet with global pooling and an optional linear projection.

    Args:
        width_coefficient: > 0, width scaling of EfficientNet.
        depth_coefficient: > 0, depth scaling of EfficientNet.
        num_stages: int from 1 to 7. The encoder has the first `num_stages` stages of
            EfficientNet. Values below 7 are for very small images and quick trials.
        image_size: ≥ 32, side in pixels to which raw images are resized. The
            network itself accepts any height and width.
        padding: padding of the convolutions of stride 2. `"tf"` is TensorFlow's
            SAME, as in the open-source EfficientNet (289 pixels become 145).
            `"hugging_face"` is that of ALIGN in transformers (144). Both are equal if
            `image_size` is a multiple of 32.
        lite: use EfficientNet-Lite, for phones and integer arithmetic. It has no
            squeeze-and-excitation, uses ReLU6, and doesn't scale the stem and the outer
            stages.
        projection_dim: width of a linear projection, or None for no projection.
            The embedding then has the width of the last block, such as 640 for B7 and
            1376 for L2 in the largest model of the paper.
        num_classes: number of class probabilities that a 1×1 head adds to
            the pooled features, for warm starts. None builds the encoder of the paper,
            which has no such head.
        drop_connect_rate: in [0, 1), rate of the last block. The rates of the
            blocks grow linearly from 0 at the first block.
        batch_norm_momentum: momentum of the moving statistics.
        batch_norm_epsilon: constant that batch normalization adds to variances.
        synchronized: compute batch statistics over all replicas.
        virtual_batch_size: as in `FusedBatchNormalization`.
        replicas_per_group: `"auto"` or None, as in `FusedBatchNormalization`.
        freeze_batch_statistics: normalize by the moving statistics in training
            too, for fine-tuning.
        rematerialize: compute activations again in the backward pass instead of
            storing them.
        locked: train the projection only, and run the other layers in inference
            mode (no drop-connect, frozen statistics).
        pixel_mean: float or three floats, the gray level that is scaled to 0.
        pixel_deviation: float or three floats > 0, the difference of gray levels that
            is scaled to 1. The defaults scale pixels to [-1, 1].
        dtype: str or `keras.DTypePolicy` of all layers. None uses Keras's default.
        trainable: False freezes the whole encoder with its projection.

    Call arguments:
        inputs: uint8 or float tensor (n, height, width, 3), gray levels in [0, 255].

    Returns:
        float tensor (n, projection_dim or the last block's width), not normalized.

    Raises:
        InputError: if an argument is out of range or unknown.

    References:
        Jia et al. 2021, section 4.1 (global pooling, no 1×1 convolution in the head)
        and 6.1 (linear layer to 640). Zhai et al. 2022, "LiT" (locked towers). Norouzi
        et al. 2014 (class probabilities).

    Example:

    >>> import numpy as np
    >>> encoder = ImageEncoder(
    ...     width_coefficient=0.35, depth_coefficient=0.5, image_size=64)
    >>> encoder(np.zeros((2, 64, 64, 3), "uint8")).shape
    TensorShape([2, 112])
    """

    lora_layer_names = ("expand", "squeeze", "excite", "project", "projection")

    def __init__(
        self,
        *,
        width_coefficient: float = 1.0,
        depth_coefficient: float = 1.0,
        num_stages: int = 7,
        image_size: int = 289,
        padding: str = "tf",
        lite: bool = False,
        projection_dim: int | None = None,
        num_classes: int | None = None,
        drop_connect_rate: float = 0.2,
        batch_norm_momentum: float = 0.99,
        batch_norm_epsilon: float = 1e-3,
        synchronized: bool = False,
        virtual_batch_size: int | None = None,
        replicas_per_group: int | str | None = None,
        freeze_batch_statistics: bool = False,
        rematerialize: bool = False,
        locked: bool = False,
        pixel_mean: float | Sequence[float] = 127.5,
        pixel_deviation: float | Sequence[float] = 127.5,
        dtype: str | keras.DTypePolicy | None = None,
        trainable: bool = True,
        name: str = "image_encoder",
        **kwargs: Any,
    ) -> None:
        refuse_unknown("ImageEncoder", kwargs, parameters_of(ImageEncoder.__init__))
        # The strides reduce each side by a factor of 32.
        check_number("image_size", image_size, 32, 8192, whole=True)
        check_choice("padding", padding, PADDINGS)
        policy = keras.dtype_policies.get(dtype)
        # The scope makes the paths of the variables of both encoders different.
        with keras.name_scope(name):
            # === Layers ===
            normalization = {
                "momentum": batch_norm_momentum,
                "epsilon": batch_norm_epsilon,
                "synchronized": synchronized,
                "virtual_batch_size": virtual_batch_size,
                "replicas_per_group": replicas_per_group,
                "freeze_statistics": freeze_batch_statistics,
            }
            activation = "relu6" if lite else "silu"
            blocks = make_blocks(
                variants.scaled_stages(
                    width_coefficient, depth_coefficient, lite, num_stages
                ),
                variants.stem_filters(width_coefficient, lite),
                drop_connect_rate=0.0 if locked else drop_connect_rate,
                squeeze_ratio=0.0 if lite else 0.25,
                normalization=normalization,
                activation=activation,
                rematerialize=rematerialize,
                padding=padding,
                dtype=policy,
            )
            convolution = functools.partial(
                _convolution, normalization, activation, policy
            )

            # === Functional model ===
            inputs = keras.Input((None, None, 3), name="images")
            x = keras.layers.Rescaling(1.0, dtype=policy, name="rescaling")(inputs)
            stem = {"filters": blocks[0].filters_in, "kernel_size": 3, "strides": 2}
            if padding == "hugging_face":
                x = keras.layers.ZeroPadding2D(
                    strided_padding(3), dtype=policy, name="stem_pad"
                )(x)
                x = convolution(x, "stem", **stem)
            else:
                x = convolution(x, "stem", padding="same", **stem)
            for block in blocks:
                x = block(x)
            pooling = keras.layers.GlobalAveragePooling2D(dtype=policy, name="pooling")
            if num_classes is None:
                outputs = pooling(x)
            else:
                filters = variants.head_filters(width_coefficient, lite)
                x = convolution(x, "head", filters=filters, kernel_size=1)
                outputs = with_class_probabilities(pooling(x), num_classes, policy)
            projection = None
            if projection_dim is not None:
                projection = keras.layers.Dense(
                    projection_dim, dtype=policy, name="projection"
                )
                outputs = projection(outputs)
        super().__init__(inputs, outputs, policy=policy, trainable=trainable, name=name)
        if locked:
            for layer in self.layers:
                layer.trainable = trainable and layer is projection
        self.initial_flags = trainable_flags(self)

        # === Config ===
        self.width_coefficient = width_coefficient
        self.depth_coefficient = depth_coefficient
        self.num_stages = num_stages
        self.image_size = image_size
        self.padding = padding
        self.lite = lite
        self.projection_dim = projection_dim
        self.num_classes = num_classes
        self.drop_connect_rate = drop_connect_rate
        self.batch_norm_momentum = batch_norm_momentum
        self.batch_norm_epsilon = batch_norm_epsilon
        self.synchronized = synchronized
        self.virtual_batch_size = virtual_batch_size
        self.replicas_per_group = replicas_per_group
        self.freeze_batch_statistics = freeze_batch_statistics
        self.rematerialize = rematerialize
        self.locked = locked
        self.set_pixel_scaling(pixel_mean, pixel_deviation)

    @classmethod
    def from_variant(
        cls, variant: str, projection_dim: int | None = None, **arguments: Any
    ) -> "ImageEncoder":
        """Builds the encoder of a named size, with random weights.

        Args:
            variant: a key of `align_keras.presets.variants.IMAGE_VARIANTS`, such
                as `"efficientnet_b7"` (the encoder of the paper), or `"b7"` for short.
            projection_dim: width of the embedding. The encoder has no
                projection if the last block has this width, such as 640 for B7.
            **arguments: arguments of `ImageEncoder`. An argument that is None keeps the
                value of the variant or the default.

        Example:

        >>> encoder = ImageEncoder.from_variant("nano", 16, image_size=64)
        >>> encoder.width_coefficient, encoder.output_shape
        (0.5, (None, 16))
        """
        return cls(
            **variants.image_encoder_arguments(variant, projection_dim, **arguments)
        )

    @property
    def blocks(self) -> list[MBConvBlock]:
        """List of all `MBConvBlock`s, from input to output."""
        return [layer for layer in self.layers if isinstance(layer, MBConvBlock)]

    def _last_layers(self, blocks: int) -> list[keras.layers.Layer]:
        # The layers are in the order of the computation.
        first = self.layers.index(self.blocks[-blocks])
        return list(self.layers[first:])

    def set_pixel_scaling(
        self,
        pixel_mean: float | Sequence[float],
        pixel_deviation: float | Sequence[float],
    ) -> None:
        """Sets the scaling of pixels, which must be that of the pretrained weights.

        Args:
            pixel_mean: as in `ImageEncoder`.
            pixel_deviation: as in `ImageEncoder`.
        """
        self.pixel_mean = pixel_mean
        self.pixel_deviation = pixel_deviation
        for name, value, least in (
            ("pixel_mean", pixel_mean, -1e12),
            ("pixel_deviation", pixel_deviation, 1e-6),
        ):
            for level in np.ravel(value).tolist():
                check_number(name, level, least, 1e12)
        mean = np.asarray(pixel_mean, dtype="float64")
        deviation = np.asarray(pixel_deviation, dtype="float64")
        rescaling = self.get_layer("rescaling")
        rescaling.scale = (1 / deviation).tolist()
        rescaling.offset = (-mean / deviation).tolist()

    def get_config(self) -> dict:
        return {
            "batch_norm_epsilon": self.batch_norm_epsilon,
            "batch_norm_momentum": self.batch_norm_momentum,
            "depth_coefficient": self.depth_coefficient,
            "drop_connect_rate": self.drop_connect_rate,
            "freeze_batch_statistics": self.freeze_batch_statistics,
            "image_size": self.image_size,
            "lite": self.lite,
            "locked": self.locked,
            "num_classes": self.num_classes,
            "num_stages": self.num_stages,
            "padding": self.padding,
            "pixel_deviation": self.pixel_deviation,
            "pixel_mean": self.pixel_mean,
            "projection_dim": self.projection_dim,
            "rematerialize": self.rematerialize,
            "replicas_per_group": self.replicas_per_group,
            "synchronized": self.synchronized,
            "virtual_batch_size": self.virtual_batch_size,
            "width_coefficient": self.width_coefficient,
            **super().get_config(),
        }


def _convolution(
    normalization: dict[str, Any],
    activation: str,
    policy: keras.DTypePolicy,
    x: keras.KerasTensor,
    name: str,
    **convolution: Any,
) -> keras.KerasTensor:
    """Applies a convolution, batch normalization and activation."""
    x = keras.layers.Conv2D(
        **convolution,
        use_bias=False,
        kernel_initializer=CONV_INITIALIZER,
        dtype=policy,
        name=name,
    )(x)
    x = FusedBatchNormalization(**normalization, dtype=policy, name=f"{name}_norm")(x)
    return Activation(activation, dtype=policy, name=f"{name}_activation")(x)


def with_class_probabilities(
    features: keras.KerasTensor, num_classes: int, policy: keras.DTypePolicy
) -> keras.KerasTensor:
    """Appends softened class probabilities to the pooled features."""
    logits = keras.layers.Dense(num_classes, dtype=policy, name="classifier")(features)
    # Dividing the logits by 2 gives several classes a noticeable probability. The
    # factor 10 makes the probabilities about as large as the features. Factors of 3 and
    # 30 gave no better results.
    soften = keras.layers.Rescaling(0.5, dtype="float32", name="soften")
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(
        soften(logits)
    )
    weigh = keras.layers.Rescaling(10.0, dtype=policy, name="weigh")
    join = keras.layers.Concatenate(dtype=policy, name="features_and_classes")
    return join([features, weigh(probabilities)])


def make_blocks(
    stages: Sequence[variants.Stage],
    filters_in: int,
    *,
    drop_connect_rate: float,
    **arguments: Any,
) -> list[MBConvBlock]:
    """Returns all `MBConvBlock`s of the stages, from input to output."""
    total = sum(stage.repeats for stage in stages)
    blocks: list[MBConvBlock] = []
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
                    **arguments,
                )
            )
            filters_in = stage.filters
    return blocks

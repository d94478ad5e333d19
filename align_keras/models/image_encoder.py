"""The image encoder: an EfficientNet, without its 1×1 head unless asked for."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from align_keras.layers import Activation, FusedBatchNormalization, MBConvBlock
from align_keras.layers.mbconv_block import CONV_INITIALIZER, PADDINGS, strided_padding
from align_keras.models import variants
from align_keras.models.encoder import Encoder
from align_keras.models.trainable_layers import trainable_flags
from align_keras.utils.arguments import (
    arguments_of,
    check_choice,
    check_number,
    keep_arguments,
    parameters_of,
    refuse_unknown,
)


@keras.saving.register_keras_serializable(package="align_keras")
class ImageEncoder(Encoder):
    """EfficientNet with global pooling and an optional linear projection.

    Args:
        width_coefficient: float > 0, EfficientNet's width scaling.
        depth_coefficient: float > 0, its depth scaling.
        num_stages: int from 1 to 7, its first stages; fewer than 7 are for very small
            images and first trials.
        image_size: int ≥ 32, side in pixels that raw images are brought to; the network
            itself takes any height and width.
        padding: str, of the convolutions of stride 2: `"tf"`, TensorFlow's SAME, as the
            open-source EfficientNet (289 pixels become 145), or `"hugging_face"`, as
            transformers' ALIGN (144); the same where `image_size` is a multiple of 32.
        lite: bool, EfficientNet-Lite, for phones and integers: no
            squeeze-and-excitation, ReLU6, stem and outer stages not scaled.
        projection_dim: int, or None for the last block's width, as B7's (640) and, in
            the paper's largest model, L2's (1376).
        num_classes: int, of the class probabilities that the 1×1 head puts beside the
            pooled features, for warm starts; None for the paper's tower without it.
        drop_connect_rate: float in [0, 1), of the last block; it grows from 0 linearly.
        batch_norm_momentum: float.
        batch_norm_epsilon: float.
        synchronized: bool, batch statistics over all replicas.
        virtual_batch_size: int or None; this and the next as `FusedBatchNormalization`.
        replicas_per_group: int, `"auto"` or None.
        freeze_batch_statistics: bool, normalize by the moving statistics in training
            too; for fine-tuning.
        rematerialize: bool, compute activations twice rather than keep them.
        locked: bool, nothing but the projection learns, and the tower runs as
            in inference (no drop-connect, frozen statistics).
        pixel_mean: float or three, the gray level that becomes 0.
        pixel_deviation: float or three > 0, gray levels from 0 to 1; with the
            defaults the network sees [-1, 1].
        dtype: str or `keras.DTypePolicy` of all layers; None for Keras's.
        trainable: bool; False freezes all of it, the projection included.

    Call arguments:
        inputs: uint8 or float tensor (n, height, width, 3), gray levels in [0, 255].

    Returns:
        float tensor (n, projection_dim or the last block's width), not normalized.

    Raises:
        InputError: if an argument isn't as above, or there is no such argument.

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
        **kwargs,
    ):
        refuse_unknown("ImageEncoder", kwargs, parameters_of(ImageEncoder.__init__))
        # Smaller images vanish in the strides.
        check_number("image_size", image_size, 32, 8192, whole=True)
        check_choice("padding", padding, PADDINGS)
        policy = keras.dtype_policies.get(dtype)
        # The scope gives both towers' variables paths that tell them apart.
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
        keep_arguments(self, ImageEncoder, locals())
        self.set_pixel_scaling(pixel_mean, pixel_deviation)

    @classmethod
    def from_variant(
        cls, variant: str, projection_dim: int | None = None, **arguments: Any
    ) -> "ImageEncoder":
        """Builds the encoder of a named size, with random weights.

        Args:
            variant: str, a key of `align_keras.models.variants.IMAGE_VARIANTS`, such as
                `"efficientnet_b7"`, the paper's, or `"b7"` for short.
            projection_dim: int or None, width of the embedding. There is no projection
                where the last block is as wide, as B7's for 640.
            **arguments: those of `ImageEncoder`; None for the variant's or the default.

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
        """The `MBConvBlock`s, in order."""
        return [layer for layer in self.layers if isinstance(layer, MBConvBlock)]

    def set_pixel_scaling(
        self,
        pixel_mean: float | Sequence[float],
        pixel_deviation: float | Sequence[float],
    ) -> None:
        """Scales images as the weights' first owner did, as by `ImageEncoder`."""
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
        return {**arguments_of(self, ImageEncoder), **super().get_config()}

    @classmethod
    def from_config(cls, config: dict) -> "ImageEncoder":
        # Version 0.1 had Hugging Face's padding alone, and no name for it.
        return super().from_config({"padding": "hugging_face", **config})


def _convolution(normalization, activation, policy, x, name, **convolution):
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
    """Puts softened class probabilities beside the pooled features."""
    logits = keras.layers.Dense(num_classes, dtype=policy, name="classifier")(features)
    # Halved logits let an image resemble several classes. Ten times the
    # probabilities weigh as much as the features; 3 and 30 were no better.
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
    """Returns the list of all `MBConvBlock`s, in order."""
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

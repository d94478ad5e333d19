"""Mobile inverted bottleneck block (MBConv) of EfficientNet."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from align_keras.layers.activation import activate
from align_keras.layers.batch_normalization import FusedBatchNormalization
from align_keras.layers.depthwise_conv import depthwise_conv
from align_keras.layers.dtype_policy import dtype_config
from align_keras.layers.rematerialization import rematerialized_call
from align_keras.utils.errors import InputError

# Variance scaling by fan-out, as in the reference code of EfficientNet.
CONV_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"},
}
PADDINGS = ("tf", "hugging_face")


def strided_padding(kernel_size: int) -> tuple:
    """Returns the padding of Hugging Face for convolutions of stride 2.

    For even image sizes, it equals the SAME padding of TensorFlow.
    """
    return ((kernel_size // 2 - 1, kernel_size // 2),) * 2


def check_channels_last() -> None:
    """Raises if the image data format of Keras isn't channels_last."""
    data_format = keras.config.image_data_format()
    if data_format != "channels_last":
        raise InputError(
            "The image data format of Keras must be 'channels_last' for image "
            "encoders. Received: keras.config.image_data_format() is "
            f"{data_format!r}. Call "
            "keras.config.set_image_data_format('channels_last')."
        )


@keras.saving.register_keras_serializable(package="align_keras")
class MBConvBlock(keras.layers.Layer):
    """Mobile inverted bottleneck block.

    The block consists of an expansion, a depthwise convolution,
    squeeze-and-excitation and a projection.

    Args:
        filters_in: channels of the input.
        filters_out: channels of the output.
        kernel_size: 3 or 5, size of the depthwise kernel.
        strides: 1 or 2, stride of the depthwise convolution.
        expand_ratio: ≥ 1, channels after the expansion relative to `filters_in`.
            For 1, the block has no expansion.
        squeeze_ratio: channels after the squeeze relative to `filters_in`. For
            0, the block has no squeeze-and-excitation.
        drop_connect_rate: in [0, 1), probability that the residual branch of an
            example is dropped in training.
        normalization: arguments of `FusedBatchNormalization`, or None.
        activation: `"silu"`, or `"relu6"` for EfficientNet-Lite.
        rematerialize: save only the input for the backward pass, and compute the
            block again there.
        padding: `"tf"` or `"hugging_face"`, as in `ImageEncoder`.

    Call arguments:
        inputs: float tensor (n, height, width, filters_in).
        training: bool.

    Returns:
        float tensor (n, ⌈height/strides⌉, ⌈width/strides⌉, filters_out). The padding
        `"hugging_face"` rounds down instead of up.

    Raises:
        InputError: if the image data format of Keras is channels_first.

    References:
        Tan and Le 2019, "EfficientNet", table 1. Sandler et al. 2018, "MobileNetV2".

    Example:

    >>> MBConvBlock(16, 24, strides=2)(tf.zeros((1, 32, 32, 16))).shape
    TensorShape([1, 16, 16, 24])
    """

    def __init__(
        self,
        filters_in: int,
        filters_out: int,
        kernel_size: int = 3,
        strides: int = 1,
        expand_ratio: int = 6,
        squeeze_ratio: float = 0.25,
        drop_connect_rate: float = 0.0,
        normalization: dict | None = None,
        activation: str = "silu",
        rematerialize: bool = False,
        padding: str = "tf",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_channels_last()

        # === Config ===
        self.filters_in = filters_in
        self.filters_out = filters_out
        self.kernel_size = kernel_size
        self.strides = strides
        self.expand_ratio = expand_ratio
        self.squeeze_ratio = squeeze_ratio
        self.drop_connect_rate = drop_connect_rate
        self.normalization = normalization
        self.activation = activation
        self.rematerialize = rematerialize
        self.padding = padding

        # === Layers ===
        self.has_residual = strides == 1 and filters_in == filters_out
        self._make_layers(filters_in * expand_ratio)

    def _make_layers(self, width: int) -> None:
        """Creates the inner layers. `width` is the number of expanded channels."""
        policy = {"dtype": self.dtype_policy}
        dense = {"kernel_initializer": CONV_INITIALIZER, **policy}
        conv = {"kernel_size": 1, "use_bias": False, **dense}
        self.expand: keras.layers.Layer | None = None
        self.expand_norm: keras.layers.Layer | None = None
        if self.expand_ratio != 1:
            self.expand = keras.layers.Conv2D(width, name="expand", **conv)
            self.expand_norm = self._norm("expand_norm")
        self.pad: keras.layers.Layer | None = None
        if self.strides == 2 and self.padding == "hugging_face":
            padding = strided_padding(self.kernel_size)
            self.pad = keras.layers.ZeroPadding2D(padding, **policy)
        self.depthwise = keras.layers.DepthwiseConv2D(
            self.kernel_size,
            strides=self.strides,
            padding="same" if self.pad is None else "valid",
            use_bias=False,
            depthwise_initializer=CONV_INITIALIZER,
            name="depthwise",
            **policy,
        )
        self.depthwise_norm = self._norm("depthwise_norm")
        self.squeeze: keras.layers.Layer | None = None
        self.excite: keras.layers.Layer | None = None
        if self.squeeze_ratio:
            squeezed = max(1, int(self.filters_in * self.squeeze_ratio))
            self.squeeze = keras.layers.Dense(
                squeezed, self.activation, name="squeeze", **dense
            )
            self.excite = keras.layers.Dense(width, "sigmoid", name="excite", **dense)
        self.project = keras.layers.Conv2D(self.filters_out, name="project", **conv)
        self.project_norm = self._norm("project_norm")
        self.drop_connect: keras.layers.Layer | None = None
        if self.has_residual and self.drop_connect_rate:
            self.drop_connect = keras.layers.Dropout(
                self.drop_connect_rate, (None, 1, 1, 1), name="drop_connect", **policy
            )

    def _norm(self, name: str) -> FusedBatchNormalization:
        return FusedBatchNormalization(
            **(self.normalization or {}), dtype=self.dtype_policy, name=name
        )

    def build(self, input_shape: tuple) -> None:
        shape = tuple(input_shape)
        # `quantize` refuses layers that aren't built, even if they have no weights.
        for layer in (
            self.expand,
            self.expand_norm,
            self.pad,
            self.depthwise,
            self.depthwise_norm,
            self.project,
            self.project_norm,
            self.drop_connect,
        ):
            if layer is not None:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
        if self.squeeze is not None and self.excite is not None:
            self.squeeze.build((shape[0], self.filters_in * self.expand_ratio))
            self.excite.build((shape[0], self.squeeze.units))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if self.rematerialize and training and self.trainable:
            return rematerialized_call(self, self._forward, inputs)
        return self._forward(inputs, training)

    def _forward(self, inputs: tf.Tensor, training: bool | None = True) -> tf.Tensor:
        x = inputs
        if self.expand is not None and self.expand_norm is not None:
            x = self.expand_norm(self.expand(x), training=training)
            x = activate(self.activation, x, training)
        x = activate(self.activation, self._filtered(x, training), training)
        if self.squeeze is not None and self.excite is not None:
            gate = self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))
            x = x * gate[:, None, None, :]
        x = self.project_norm(self.project(x), training=training)
        if self.drop_connect is not None:
            # A frozen block runs in inference mode.
            x = self.drop_connect(x, training=training and self.trainable)
        return x + inputs if self.has_residual else x

    def _filtered(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Applies the depthwise convolution and its normalization."""
        if self.depthwise_norm.takes_batch_statistics(training):
            x = self._depthwise(x, self.depthwise.kernel, training)
            return self.depthwise_norm(x, training=True)
        # The scale of the normalization is multiplied into the kernel, which saves a
        # pass over the images. For other convolutions TensorFlow does this itself, but
        # not for depthwise convolutions.
        scale, offset = self.depthwise_norm.moving_scale_and_offset()
        x = self._depthwise(x, self.depthwise.kernel * scale[:, None], training)
        return tf.nn.bias_add(x, tf.cast(offset, x.dtype))

    def _depthwise(
        self, x: tf.Tensor, kernel: tf.Tensor, training: bool | None
    ) -> tf.Tensor:
        padding = self.depthwise.padding
        if self.pad is not None:
            if None in x.shape[1:3] or x.shape[1] % 2 or x.shape[2] % 2:
                x = self.pad(x)
            else:
                # For even sides, SAME gives the same result without a padded copy.
                padding = "same"
        kernel = ops.cast(kernel, x.dtype)
        return depthwise_conv(x, kernel, self.strides, padding, training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = tuple(input_shape)
        if self.pad is not None:
            shape = self.pad.compute_output_shape(shape)
        shape = self.depthwise.compute_output_shape(shape)
        return (*shape[:-1], self.filters_out)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "dtype": dtype_config(self),
            "activation": self.activation,
            "drop_connect_rate": self.drop_connect_rate,
            "expand_ratio": self.expand_ratio,
            "filters_in": self.filters_in,
            "filters_out": self.filters_out,
            "kernel_size": self.kernel_size,
            "normalization": self.normalization,
            "padding": self.padding,
            "rematerialize": self.rematerialize,
            "squeeze_ratio": self.squeeze_ratio,
            "strides": self.strides,
        }

"""Linear classifier on the image encoder."""

from typing import Any

import keras
import tensorflow as tf

from align_keras.layers.dtype_policy import default_policy
from align_keras.losses.cross_replica import reduce_over_replicas, replica_count
from align_keras.models.gradients import (
    ForwardState,
    accumulated_gradients,
    check_micro_batches,
    check_weight_dtypes,
    dense,
)
from align_keras.models.image_encoder import ImageEncoder
from align_keras.models.trainable_layers import CONFIG_KEY
from align_keras.optimizers import apply_if
from align_keras.optimizers.replica_gradients import (
    check_clipping,
    take_summed_gradients,
)
from align_keras.utils.arguments import check_number, parameters_of, refuse_unknown


@keras.saving.register_keras_serializable(package="align_keras")
class ImageClassifier(keras.Model):
    """Image encoder with a dense layer as classification head, initialized to zero.

    If `image_encoder.trainable` is False, the encoder runs in inference mode.

    Args:
        image_encoder: `ImageEncoder`, (n, S, S, 3) → (n, d), which becomes a part of
            the classifier. Use `encoder_without_projection` to train a copy.
        num_classes: int ≥ 2.
        dtype: str or `keras.DTypePolicy`. With a float16 policy, `compile` scales the
            loss. None uses the policy of the encoder. The head computes in float32.
        micro_batch_size: number of images that a replica processes at a
            time to save memory. The gradients are those of the whole batch, except that
            batch normalization uses the statistics of each micro-batch.

    Call arguments:
        inputs: uint8 or float tensor (n, height, width, 3) in [0, 255], such as the
            images of `ALIGNImageConverter`.

    Returns:
        float32 tensor (n, num_classes), logits.

    Raises:
        InputError: if an argument is out of range, or if `micro_batch_size` is used
            with synchronized batch normalization.

    References:
        Jia et al. 2021, section 5.3.

    Example:

    >>> encoder = ImageEncoder(
    ...     width_coefficient=0.35, depth_coefficient=0.5, image_size=64)
    >>> ImageClassifier(encoder, 10)(tf.zeros((2, 64, 64, 3))).shape
    TensorShape([2, 10])
    """

    def __init__(
        self,
        image_encoder: keras.Model,
        num_classes: int,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "image_classifier",
        *,
        micro_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        argument_names = [*parameters_of(ImageClassifier.__init__), "trainable"]
        refuse_unknown("ImageClassifier", kwargs, argument_names)
        check_number("num_classes", num_classes, 2, 10_000_000, whole=True)
        if dtype is None:
            dtype = default_policy(image_encoder.dtype_policy)
        super().__init__(dtype=dtype, name=name, **kwargs)
        self.image_encoder = image_encoder
        self.num_classes = num_classes
        self.micro_batch_size = micro_batch_size
        check_micro_batches(self, micro_batch_size)
        self.head = keras.layers.Dense(
            num_classes, kernel_initializer="zeros", dtype="float32", name="head"
        )

    def build(self, input_shape: tuple) -> None:
        self.head.build(self.image_encoder.output_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        learns = bool(training) and self.image_encoder.trainable
        return self.head(self.image_encoder(inputs, training=learns))

    def train_step(self, data: object) -> dict:
        """Updates the weights once, on the batch of all replicas."""
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        inputs = {"images": images, "labels": labels, "weights": weights}
        inputs = {name: rows for name, rows in inputs.items() if rows is not None}
        if not self.built:
            self.build(images.shape)
        check_clipping(self.optimizer, replica_count())
        check_weight_dtypes(self.optimizer, self.trainable_variables)
        state = ForwardState(self)
        before = state.start_step()
        if self.micro_batch_size is None:
            loss, logits, gradients = self._gradients(inputs)
        else:
            loss, logits, gradients = accumulated_gradients(
                self, state, inputs, self.micro_batch_size, self._gradients
            )
        gradients = take_summed_gradients(
            self.optimizer, reduce_over_replicas("SUM", gradients), replica_count()
        )
        apply_if(True, self.optimizer, gradients, self.trainable_variables)
        state.end_step(before, True)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replica_count())
        return self.compute_metrics(images, labels, logits, weights)

    def _gradients(
        self, inputs: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list]:
        """Returns the loss, logits and gradients of the rows of this replica."""
        images, labels = inputs["images"], inputs["labels"]
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            # Keras divides the loss by the number of replicas.
            loss = self.compute_loss(images, labels, logits, inputs.get("weights"))
            scaled = self.optimizer.scale_loss(loss)
        variables = [variable.value for variable in self.trainable_variables]
        return loss, logits, dense(tape.gradient(scaled, variables))

    def get_config(self) -> dict:
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "num_classes": self.num_classes,
            "micro_batch_size": self.micro_batch_size,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> "ImageClassifier":
        encoder = keras.saving.deserialize_keras_object(config["image_encoder"])
        return cls(**{**config, "image_encoder": encoder})


def encoder_without_projection(
    image_encoder: keras.Model,
    freeze_batch_statistics: bool = False,
    rematerialize: bool | None = None,
    dtype: str | keras.DTypePolicy | None = None,
) -> ImageEncoder:
    """Returns a trainable copy of an image encoder up to its pooled features.

    The classifier uses the pooled features, since the large encoders of the paper have
    no projection (Jia et al. 2021, sections 4.1 and 5.3).

    Args:
        image_encoder: `ImageEncoder` with float weights.
        freeze_batch_statistics: as in `ImageEncoder`.
        rematerialize: as in `ImageEncoder`, or None to copy the setting.
        dtype: dtype policy, or None to copy the policy.

    Raises:
        InputError: if the encoder is quantized.
    """
    config = image_encoder.get_config()
    config.pop(CONFIG_KEY, None)
    if rematerialize is not None:
        config["rematerialize"] = rematerialize
    if dtype is not None:
        config["dtype"] = dtype
    copy = ImageEncoder.from_config(
        {
            **config,
            "projection_dim": None,
            "freeze_batch_statistics": freeze_batch_statistics,
            "synchronized": False,
            "virtual_batch_size": None,
            "replicas_per_group": None,
            "locked": False,
            "trainable": True,
        }
    )
    for layer in copy.layers:
        layer.set_weights(image_encoder.get_layer(layer.name).get_weights())
    return copy

"""How a dual encoder is trained: loss, step, and Keras's fit on raw pairs."""

import keras
import tensorflow as tf

from align_keras.losses.contrastive_loss import (
    check_loss_arguments,
    directional_losses,
    reduce_directions,
)
from align_keras.losses.cross_replica import replica_count
from align_keras.models import embedding
from align_keras.optimizers import Lamb, paper_schedule
from align_keras.utils.errors import InputError


def make_loss_metrics():
    """Returns the running means that a `ContrastiveModel` reports."""
    return [
        keras.metrics.Mean(name=name)
        for name in ("loss", "loss_i2t", "loss_t2i", "temperature")
    ]


class ContrastiveModel(keras.Model):
    """What `ALIGN` inherits: `compile`, `train_step`, `fit` and their kin.

    A subclass calls to outputs with `image_embedding` and `text_embedding`, and
    has `temperature`, `loss_metrics` (of `make_loss_metrics`), `tokenizer` and
    `image_size`.
    """

    def compile(
        self,
        optimizer=None,
        *,
        label_smoothing=0.1,
        reduction="sum",
        share_equal_captions=False,
        **kwargs,
    ):
        """Sets the optimizer and the loss; the defaults are the paper's.

        Args:
            optimizer: Keras optimizer. By default `Lamb` with the paper's
                schedule: 10k steps of warm-up to 1e-3, then linearly to zero
                in 1.2M steps.
            label_smoothing: float in [0, 1].
            reduction: `"sum"` or `"mean"` of both directions.
            share_equal_captions: bool; pairs of a batch whose captions are
                equal are each other's positives.
            **kwargs: as `keras.Model.compile` (`jit_compile`,
                `steps_per_execution` …); without `loss` and `metrics`, which
                are built in.

        Raises:
            InputError: if an argument isn't as above.

        References:
            Jia et al. 2021, section 5.1.
        """
        check_loss_arguments(label_smoothing, reduction)
        if kwargs.get("loss") is not None:
            raise InputError(
                "loss can't be given, received "
                f"{kwargs['loss']!r}; ALIGN has its own contrastive loss: use "
                "label_smoothing, reduction and share_equal_captions."
            )
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer or Lamb(paper_schedule()), **kwargs)
        # Variables made inside the first step would make it trace twice.
        self.optimizer.build(self.trainable_variables)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.share_equal_captions = share_equal_captions

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "share_equal_captions": self.share_equal_captions,
        }

    def compile_from_config(self, config):
        optimizer = keras.optimizers.deserialize(config["optimizer"])
        self.compile(**{**config, "optimizer": optimizer})

    @property
    def metrics(self):
        return self.loss_metrics

    def compute_losses(self, inputs, training):
        """Runs both towers once and returns `(loss_i2t, loss_t2i)`."""
        outputs = self(inputs, training=training)
        return directional_losses(
            outputs["image_embedding"],
            outputs["text_embedding"],
            self.temperature,
            label_smoothing=self.label_smoothing,
            pair_groups=caption_groups(inputs["token_ids"])
            if self.share_equal_captions
            else None,
        )

    def update_loss_metrics(self, loss_i2t, loss_t2i):
        """Feeds the running means; returns them by name."""
        loss = reduce_directions(loss_i2t, loss_t2i, self.reduction)
        values = (loss, loss_i2t, loss_t2i, self.temperature)
        for metric, value in zip(self.loss_metrics, values, strict=True):
            metric.update_state(value)
        return {metric.name: metric.result() for metric in self.loss_metrics}

    def train_step(self, data):
        """One update on a batch of `images`, `token_ids` and `padding_mask`."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            losses = self.compute_losses(inputs, training=True)
            # The optimizer sums gradients over replicas; each replica's loss
            # is the mean of its own rows.
            loss = reduce_directions(*losses, self.reduction) / replica_count()
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        return self.update_loss_metrics(*losses)

    def test_step(self, data):
        """The losses of a batch, without an update."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        return self.update_loss_metrics(*self.compute_losses(inputs, training=False))

    def _symbolic_build(self, *args, **kwargs):
        """Does nothing: the functional model and its metrics are built.

        Keras would run a first batch through the train step, which costs a
        batch of the input and fails on strings under a strategy.
        """

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; takes raw datasets of `image` and `caption` too.

        Args:
            x: batched `tf.data.Dataset` of dicts: `images`, `token_ids` and
                `padding_mask`; or raw `image` (file bytes, or uint8 pixels)
                and `caption` (strings).
            *args: as `keras.Model.fit`.
            **kwargs: as `keras.Model.fit`.
        """
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # else Keras warns at each call
        return super().fit(embedding.prepare(self, x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`; takes raw datasets too (see `fit`)."""
        return super().evaluate(embedding.prepare(self, x), *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        """As `keras.Model.predict`; takes raw datasets too (see `fit`)."""
        return super().predict(embedding.prepare(self, x), *args, **kwargs)


def caption_groups(token_ids):
    """Returns int64 (n,): equal for equal rows, by a hash of the token ids."""
    length = token_ids.shape[1]
    multipliers = tf.random.stateless_uniform(
        (length,), (length, 64), None, None, tf.int64
    )
    return tf.reduce_sum(tf.cast(token_ids, tf.int64) * multipliers, axis=1)

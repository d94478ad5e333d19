"""Base classes of losses for `ALIGN.compile`."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.utils.arguments import arguments_of, parameters_of
from align_keras.utils.errors import InputError


class PairLoss:
    """Loss of paired embeddings, for `ALIGN.compile(loss=…)`.

    A subclass implements `call`, which gets the embeddings of all replicas. Its `parts`
    are the names of the losses that it returns, which training reports. To be saved in
    `.keras` files, it keeps its arguments as attributes and is registered by
    `keras.saving.register_keras_serializable`. `compile` also accepts a function of
    `(image_embeddings, text_embeddings, temperature)`.

    Example:

    >>> class Distance(PairLoss):
    ...     def call(self, image_embeddings, text_embeddings, temperature, token_ids):
    ...         return tf.reduce_mean((image_embeddings - text_embeddings) ** 2)
    >>> float(Distance()(tf.eye(2), tf.zeros((2, 2)), 1.0))
    0.5
    """

    parts: tuple[str, ...] = ("pair_loss",)

    def call(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        token_ids: tf.Tensor | None,
    ) -> tf.Tensor | tuple[tf.Tensor, ...]:
        """Computes the losses of a batch.

        Args:
            image_embeddings: float tensor (n, d) of unit length, of all replicas.
            text_embeddings: float tensor (n, d), row by row the pair of
                `image_embeddings`.
            temperature: scalar float tensor.
            token_ids: int tensor (n, length) of the captions, or None.

        Returns:
            Float tensor, scalar or (n,), or a tuple of these, one for each of `parts`.
        """
        raise NotImplementedError

    def total(self, *losses: tf.Tensor) -> tf.Tensor:
        """Returns the loss that training minimizes, the sum of all parts."""
        return tf.add_n(losses)

    def replica_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        token_ids: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Computes this replica's losses, whose means over replicas are the batch's.

        Gradients flow to all replicas. Divide the losses by the number of replicas
        before the gradients are summed. A subclass may override this method to compute
        the rows of one replica only. The arguments are those of `call`, for this
        replica's rows.
        """
        images, _ = gather_replicas(image_embeddings)
        texts, _ = gather_replicas(text_embeddings)
        if token_ids is not None:
            token_ids, _ = gather_replicas(token_ids)
        losses = self.call(images, texts, temperature, token_ids)
        losses = losses if isinstance(losses, tuple | list) else (losses,)
        if len(losses) != len(self.parts):
            raise InputError(
                f"a loss must return one tensor for each of its parts ({self.parts}), "
                f"received {len(losses)}; set `parts` to their names."
            )
        return tuple(tf.reduce_mean(loss) for loss in losses)

    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Returns the total of `replica_losses`, which gets the arguments, a scalar."""
        return self.total(*self.replica_losses(*args, **kwargs))

    @classmethod
    def options(cls) -> list[str]:
        """Returns the names of the constructor's arguments."""
        return parameters_of(cls.__init__)

    def get_config(self) -> dict:
        return arguments_of(self, type(self))

    @classmethod
    def from_config(cls, config: dict) -> "PairLoss":
        return cls(**config)


class RowLoss(PairLoss):
    """Loss of the rows of one replica and the columns of all replicas.

    A subclass implements `row_losses`, and has the attribute `share_equal_captions`.
    """

    share_equal_captions: bool

    def replica_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor | float,
        token_ids: tf.Tensor | None = None,
        pair_groups: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Computes the losses. Pairs with equal `pair_groups` (n,) match each other."""
        if pair_groups is None and self.share_equal_captions:
            if token_ids is None:
                raise InputError(
                    "token_ids must be given with share_equal_captions, received None; "
                    "pass the captions' token ids, or pair_groups."
                )
            pair_groups = caption_groups(token_ids)
        images = tf.convert_to_tensor(image_embeddings)
        texts = tf.convert_to_tensor(text_embeddings)
        return self.row_losses(images, texts, temperature, pair_groups)

    def row_losses(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        temperature: tf.Tensor | float,
        pair_groups: tf.Tensor | None,
    ) -> tuple[tf.Tensor, ...]:
        """Returns the mean of each loss over these rows."""
        raise NotImplementedError


def caption_groups(token_ids: tf.Tensor) -> tf.Tensor:
    """Returns a number for each caption (n,), a hash of its token ids."""
    length = token_ids.shape[1]
    multipliers = tf.random.stateless_uniform(
        (length,), (length, 64), None, None, tf.int64
    )
    return tf.reduce_sum(tf.cast(token_ids, tf.int64) * multipliers, axis=1)


@keras.saving.register_keras_serializable(package="align_keras")
class FunctionLoss(PairLoss):
    """Loss of a function of `(image_embeddings, text_embeddings, temperature)`."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def call(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        token_ids: tf.Tensor | None,
    ) -> tf.Tensor:
        return self.function(image_embeddings, text_embeddings, temperature)

    def get_config(self) -> dict:
        return {"function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config: dict) -> "FunctionLoss":
        return cls(keras.saving.deserialize_keras_object(config["function"]))


def as_pair_loss(loss: PairLoss | Callable) -> PairLoss:
    """Converts a function to a `PairLoss`, or raises for Keras's losses of labels."""
    if isinstance(loss, PairLoss):
        return loss
    if isinstance(loss, keras.losses.Loss) or not callable(loss):
        raise InputError(
            "loss must be a ContrastiveLoss, another PairLoss, or a function of "
            f"(image_embeddings, text_embeddings, temperature), received {loss!r:.80}; "
            "leave it out for the paper's."
        )
    return FunctionLoss(loss)

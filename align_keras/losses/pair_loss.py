"""Base classes of losses for `ALIGN.compile`."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.pair_groups import row_hashes
from align_keras.utils.arguments import arguments_of, parameters_of
from align_keras.utils.errors import InputError


class PairLoss:
    """Base class of losses of paired embeddings, for `ALIGN.compile(loss=…)`.

    A subclass implements `call`, which receives the embeddings of all replicas. The
    attribute `parts` contains the names of the losses that `call` returns. Training
    reports the losses under these names. To be saved in `.keras` files, a subclass must
    store its arguments as attributes, and must be registered with
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
            text_embeddings: float tensor (n, d) of unit length. Row i is the caption of
                image i.
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
        """Computes the losses of this replica.

        The losses of the batch are the means over replicas. Gradients flow to all
        replicas. Divide the losses by the number of replicas before the gradients are
        summed. A subclass may override this method to compute only the rows of this
        replica. The arguments are those of `call` for the rows of this replica.

        Returns:
            tuple of scalar float tensors, one for each of `parts`.

        Raises:
            InputError: if `call` returns another number of losses.
        """
        check_rows("text_embeddings", image_embeddings, text_embeddings)
        images, _ = gather_replicas(image_embeddings)
        texts, _ = gather_replicas(text_embeddings)
        if token_ids is not None:
            token_ids, _ = gather_replicas(token_ids)
        losses = self.call(images, texts, temperature, token_ids)
        losses = losses if isinstance(losses, tuple | list) else (losses,)
        if len(losses) != len(self.parts):
            raise InputError(
                f"A loss must return one tensor for each of its parts {self.parts}. "
                f"Received: {len(losses)} tensors. Set `parts` to the names of the "
                "tensors."
            )
        return tuple(tf.reduce_mean(loss) for loss in losses)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the loss needs in addition to `token_ids`.

        Training passes these inputs to `replica_losses` as keywords.
        """
        return ()

    def batch_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        inputs: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, ...]:
        """Computes `replica_losses` from the inputs of a batch.

        Args:
            image_embeddings: as in `call`, for the rows of this replica.
            text_embeddings: as in `call`, for the rows of this replica.
            temperature: as in `call`.
            inputs: dict with `token_ids` and the `required_inputs`.
        """
        required = {name: inputs[name] for name in self.required_inputs}
        return self.replica_losses(
            image_embeddings,
            text_embeddings,
            temperature,
            inputs["token_ids"],
            **required,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Returns the total of `replica_losses` for these arguments, a scalar."""
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
    """Base class of losses that compute only the rows of one replica.

    A row is compared with the columns of all replicas. A subclass implements
    `row_losses`, and has the attribute `share_equal_captions`. It may also have the
    attribute `share_equal_images`.
    """

    share_equal_captions: bool
    share_equal_images: bool = False

    @property
    def required_inputs(self) -> tuple[str, ...]:
        return ("image_ids",) if self.share_equal_images else ()

    def replica_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor | float,
        token_ids: tf.Tensor | None = None,
        pair_groups: tf.Tensor | None = None,
        image_ids: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Computes the losses of this replica.

        The arguments are those of `PairLoss.replica_losses`. Pairs that are equal in a
        column of `pair_groups`, an int tensor (n,) or (n, 2), are positives of each
        other. By default, the groups are those of equal captions and of equal
        `image_ids`, an int tensor (n,), as the options of the loss require.
        """
        if pair_groups is None:
            pair_groups = self._groups(token_ids, image_ids)
        else:
            pair_groups = tf.convert_to_tensor(pair_groups)
        images = tf.convert_to_tensor(image_embeddings)
        texts = tf.convert_to_tensor(text_embeddings)
        check_rows("text_embeddings", images, texts)
        if pair_groups is not None:
            check_rows("pair_groups", images, pair_groups)
        return self.row_losses(images, texts, temperature, pair_groups)

    def _groups(
        self, token_ids: tf.Tensor | None, image_ids: tf.Tensor | None
    ) -> tf.Tensor | None:
        """Returns the groups of captions and of images, int64 (n, 1) or (n, 2)."""
        columns = []
        if self.share_equal_captions:
            columns.append(row_hashes(token_ids))
        if self.share_equal_images:
            columns.append(tf.cast(image_ids, tf.int64))
        return tf.stack(columns, axis=1) if columns else None

    def row_losses(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        temperature: tf.Tensor | float,
        pair_groups: tf.Tensor | None,
    ) -> tuple[tf.Tensor, ...]:
        """Returns the mean of each loss over the rows of this replica."""
        raise NotImplementedError


def check_rows(name: str, images: tf.Tensor, rows: tf.Tensor) -> None:
    """Raises unless a tensor has one row for each image, and there is an image.

    Only static shapes are compared.

    Args:
        name: name of the tensor for the message.
        images: float tensor (n, d), the image embeddings.
        rows: tensor (n, …).
    """
    image_shape = tf.TensorShape(images.shape)
    shape = tf.TensorShape(rows.shape)
    if not image_shape.rank or not shape.rank:
        return
    is_equal = image_shape[:1].is_compatible_with(shape[:1])
    if is_equal and 0 not in (image_shape[0], shape[0]):
        return
    raise InputError(
        f"{name} must have one row for each image, at least one. Received: shape "
        f"{shape} for image_embeddings of shape {image_shape}. Pass the rows of the "
        "same pairs."
    )


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
    """Returns a loss or a function as a `PairLoss`.

    Raises:
        InputError: for other objects, including the losses of Keras, which compare
            labels with predictions.
    """
    if isinstance(loss, PairLoss):
        return loss
    if isinstance(loss, keras.losses.Loss) or not callable(loss):
        raise InputError(
            "loss must be a ContrastiveLoss, another PairLoss, or a function of "
            "(image_embeddings, text_embeddings, temperature). Received: "
            f"loss={loss!r:.80}. Leave it out to use the loss of the paper."
        )
    return FunctionLoss(loss)

"""Loss of embeddings that are truncated to several widths."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.pair_loss import PairLoss, as_pair_loss
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class MatryoshkaLoss(PairLoss):
    """Weighted sum of a loss at several widths of the embeddings.

    At each width, the embeddings are truncated to their first components and scaled to
    unit length. A model that is trained with this loss has useful embeddings at all
    widths, so that an index may store only the first components
    (`align_keras.load_model(…, dimensions=…)`).

    Training reports the loss of each width, such as `loss_64` for 64 components.

    Args:
        loss: `PairLoss`, or a function of `(image_embeddings, text_embeddings,
            temperature)`.
        widths: sequence of different int ≥ 1, at most the width of the embeddings.
            Include the width of the embeddings to train them as a whole.
        weights: sequence of float > 0, one for each width, or None for equal weights
            of 1.

    Call arguments:
        image_embeddings: as in `loss`.
        text_embeddings: as in `loss`.
        temperature: as in `loss`.
        token_ids: as in `loss`.

    Returns:
        Scalar float tensor, the weighted sum of the losses.

    Raises:
        InputError: if widths are equal, wider than the embeddings or not whole numbers,
            or if there is another number of weights.

    References:
        Kusupati et al. 2022, "Matryoshka Representation Learning", section 3.

    Example:

    >>> from align_keras.losses import ContrastiveLoss
    >>> loss = MatryoshkaLoss(ContrastiveLoss(label_smoothing=0.0), widths=[2, 4])
    >>> loss.parts
    ('loss_2', 'loss_4')
    >>> round(float(loss(tf.ones((2, 4)), tf.ones((2, 4)), 1.0)), 4)  # 4 · log(2)
    2.7726
    """

    def __init__(
        self,
        loss: PairLoss | Callable,
        widths: Sequence[int],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.loss = as_pair_loss(loss)
        self.widths = tuple(widths)
        remedy = "Pass numbers of components, such as [64, 128]."
        for width in self.widths:
            check_number("widths", width, 1, 2**31, True, remedy)
        self.weights = (1.0,) * len(self.widths) if weights is None else tuple(weights)
        is_repeated = len(set(self.widths)) < len(self.widths)
        if is_repeated or len(self.weights) != len(self.widths):
            raise InputError(
                "widths must differ, and weights must have one number for each of "
                f"them. Received: widths={list(self.widths)} and "
                f"weights={list(self.weights)}."
            )
        self.parts = tuple(f"loss_{width}" for width in self.widths)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        return self.loss.required_inputs

    def total(self, *losses: tf.Tensor) -> tf.Tensor:
        """Returns the weighted sum of the losses of all widths."""
        return tf.add_n(
            [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        )

    def replica_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        token_ids: tf.Tensor | None = None,
        **inputs: Any,
    ) -> tuple[tf.Tensor, ...]:
        """Computes the total loss of this replica at each width."""
        images = tf.convert_to_tensor(image_embeddings)
        texts = tf.convert_to_tensor(text_embeddings)
        return tuple(
            self.loss(
                truncate(images, width),
                truncate(texts, width),
                temperature,
                token_ids,
                **inputs,
            )
            for width in self.widths
        )

    def get_config(self) -> dict:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "widths": list(self.widths),
            "weights": list(self.weights),
        }

    @classmethod
    def from_config(cls, config: dict) -> "MatryoshkaLoss":
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(loss, config["widths"], config["weights"])


def truncate(embeddings: tf.Tensor, width: int) -> tf.Tensor:
    """Returns the first components of embeddings, scaled to unit length.

    Args:
        embeddings: float tensor (n, d).
        width: at most d.

    Raises:
        InputError: if the embeddings are narrower.
    """
    if embeddings.shape[-1] < width:
        raise InputError(
            "widths must be at most the width of the embeddings. Received: "
            f"{width} for embeddings of width {embeddings.shape[-1]}. Remove this "
            "width."
        )
    return tf.math.l2_normalize(embeddings[:, :width], axis=1)

"""Mixture of several prepared corpora."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.datasets.array_records import stored_examples
from align_keras.utils.errors import InputError

if TYPE_CHECKING:  # Importing this module must not load TensorFlow.
    import tensorflow as tf


# Maximum sum of the shares of the members. Resuming counts the turns one by one, so the
# limit bounds its time.
_MAX_TURNS = 100_000


class Mixture:
    """Several corpora that are read as one.

    The class implements the parts of a TFDS builder that this package uses. Every
    example of every member occurs once. The examples are interleaved in proportion to
    the sizes of the members, so that any part of the mixture has each member's share.
    Ids begin with the name of the member.

    Args:
        members: dict from the name of a corpus to its prepared TFDS builder.
        weights: sequence of float > 0, the share of each member in training. By default
            the shares follow the numbers of examples. With weights, an epoch of the
            mixture may contain a part of a member's examples, or repeat them.
        repeats: dict from the name of a member to the number of times that an epoch of
            training contains its examples, float > 0, 1 for the other members. They
            have no effect if `weights` are passed.

    Example:

    ```python
    pairs = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    more = align_keras.datasets.open_corpus("pairs", pairs="more.csv")
    mixture = Mixture({"pairs": pairs, "more": more})
    mixture.name  # 'pairs+more'
    ```
    """

    def __init__(
        self,
        members: Mapping[str, Any],
        weights: Sequence[float] | None = None,
        repeats: Mapping[str, float] | None = None,
    ) -> None:
        self.members = dict(members)
        self._weights: dict[str, float] | None = None
        if weights:
            self._weights = dict(zip(self.members, weights, strict=True))
        self._repeats = dict(repeats or {})
        self.name = "+".join(self.members)
        self.info = types.SimpleNamespace(
            splits=_Splits(self.name, self.members),
            metadata={
                name: dict(builder.info.metadata or {})
                for name, builder in self.members.items()
            },
            # The features of the members differ only in the encoding of the images,
            # which the decoder detects from the bytes.
            features=next(iter(self.members.values())).info.features,
        )

    def as_dataset(self, *, split: str, decoders: Any = None) -> "tf.data.Dataset":
        """Reads a split in the stored order.

        A part such as `"train[:10%]"` is taken from each member.
        """
        # Opening a mixture must not load TensorFlow.
        import tensorflow as tf

        def read(name: str, builder: Any) -> "tf.data.Dataset":
            return stored_examples(builder, split, decoders).map(
                lambda row: {**row, "id": tf.strings.join([name, "/", row["id"]])}
            )

        sizes = self.info.splits.sizes(split)
        datasets = [read(*member) for member in self.members.items()]
        return tf.data.Dataset.choose_from_datasets(
            datasets, _turns(sizes), stop_on_empty_dataset=False
        )

    def shares(self, sizes: dict[str, int]) -> list[int]:
        """Returns the number of turns of each member in one cycle of the mixture.

        Args:
            sizes: dict from the name of a member to its number of examples.
        """
        if self._weights is None:
            weights = {
                name: size * self._repeats.get(name, 1) for name, size in sizes.items()
            }
        else:
            weights = {name: self._weights[name] for name in sizes}
        total_weight = sum(weights.values())
        if self._weights is None and total_weight <= _MAX_TURNS:
            turns_per_weight = 1.0
        else:
            turns_per_weight = _MAX_TURNS / total_weight
        return [max(1, round(turns_per_weight * weight)) for weight in weights.values()]

    @staticmethod
    def endless_turns(
        sizes: Sequence[int], start: int
    ) -> "tuple[tf.data.Dataset, np.ndarray]":
        """Returns the endless sequence of members to read from.

        Args:
            sizes: number of turns of each member in one cycle, from `shares`.
            start: number of turns to skip.

        Returns:
            `(turns, taken)`: an endless data set of member indices, int64, and the
            number of skipped turns of each member.
        """
        shares, taken = np.array(sizes, "int64"), np.zeros(len(sizes), "int64")
        for position in range(start):
            taken[np.argmax((position + 1) * shares - taken * shares.sum())] += 1
        return _turns(sizes, taken).concatenate(_turns(sizes).repeat()), taken


class _Splits:
    """Splits of a mixture.

    An item is an object with `num_examples`. Iteration yields the splits that all
    members have.
    """

    def __init__(self, name: str, members: dict[str, Any]) -> None:
        self._name = name
        self._splits = {name: builder.info.splits for name, builder in members.items()}

    def __getitem__(self, split: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(num_examples=sum(self.sizes(split)))

    def __iter__(self) -> Iterator[str]:
        first, *other_members = self._splits.values()
        return (
            split for split in first if all(split in other for other in other_members)
        )

    def sizes(self, split: str) -> list[int]:
        """Returns the number of examples of each member in a split."""
        sizes = []
        for name, splits in self._splits.items():
            try:
                sizes.append(splits[split].num_examples)
            except (KeyError, ValueError) as error:
                raise InputError(
                    f"tfds_split must be a split of every corpus of {self._name}. "
                    f"Received: tfds_split={split!r}, but the splits of {name} are "
                    f"{', '.join(sorted(splits)) or 'none'}. Use "
                    f"{' or '.join([*sorted(self), 'all'])}."
                ) from error
        return sizes


def _turns(sizes: Sequence[int], taken: np.ndarray | None = None) -> "tf.data.Dataset":
    """Returns a data set with the member index of each later turn of a cycle, int64."""
    # The next turn goes to the member that is furthest below its share, so that at the
    # end of the cycle each member has had its number of turns.
    import tensorflow as tf

    taken = tf.zeros(len(sizes), tf.int64) if taken is None else tf.constant(taken)
    start, total = tf.reduce_sum(taken), sum(sizes)
    sizes = tf.constant(sizes, tf.int64)

    def turn(
        taken: "tf.Tensor", position: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        # Number of turns by which a member is below its share, multiplied by `total` to
        # stay an integer.
        lag = (position + 1) * sizes - taken * total
        # `argmax` may return any of several equal maxima. Subtracting the index makes
        # all values different.
        member = tf.argmax(lag * len(sizes) - members)
        return taken + tf.cast(members == member, tf.int64), member

    members = tf.range(len(sizes), dtype=tf.int64)
    return tf.data.Dataset.range(start, total).scan(taken, turn)

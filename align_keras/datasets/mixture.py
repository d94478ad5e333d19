"""Several prepared corpora as one."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.datasets.array_records import stored_examples
from align_keras.utils.errors import InputError

if TYPE_CHECKING:  # For naming a mixture must not load TensorFlow.
    import tensorflow as tf


# Limit of the sum of the members' shares, since a start counts the turns one by one.
_MOST_TURNS = 100_000


class Mixture:
    """Several corpora, each with all its images, with what is used of a builder here.

    The members' examples follow each other in proportion to their number, so that any
    stretch has its share of each; every example comes once. Ids begin with the member's
    name.

    Args:
        members: dict, name of the corpus → prepared TFDS builder.
        weights: sequence of float > 0, the members' shares of what is read in training,
            or None for their numbers of examples. With weights each member has epochs
            of its own, of which a mixture's epoch has a part or several.

    Example:

    ```python
    mixture = open_corpus("clipart+emoji")
    mixture.info.splits["train"].num_examples  # 9991
    ```
    """

    def __init__(
        self, members: Mapping[str, Any], weights: Sequence[float] | None = None
    ) -> None:
        self.members = dict(members)
        self._weights = weights and dict(zip(self.members, weights, strict=True))
        self.name = "+".join(self.members)
        self.info = types.SimpleNamespace(
            splits=_Splits(self.name, self.members),
            metadata=_merged_metadata(self.members),
            # Only the images' encoding differs, of which their bytes tell.
            features=next(iter(self.members.values())).info.features,
        )

    def as_dataset(self, *, split: str, decoders: Any = None) -> "tf.data.Dataset":
        """Reads a split, `"train[:10%]"` of each member, in the stored order."""
        import tensorflow as tf  # Here, for naming a mixture must not load it.

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
        """The turns of members, name → number of examples, before all begins again."""
        total = sum(sizes.values())
        if self._weights is None and total <= _MOST_TURNS:
            return list(sizes.values())
        weights = {name: (self._weights or sizes)[name] for name in sizes}
        whole = sum(weights.values())
        return [max(1, round(_MOST_TURNS * w / whole)) for w in weights.values()]

    @staticmethod
    def endless_turns(
        sizes: Sequence[int], start: int
    ) -> "tuple[tf.data.Dataset, np.ndarray]":
        """The members' turns behind the first `start`, and how many these each had."""
        shares, taken = np.array(sizes, "int64"), np.zeros(len(sizes), "int64")
        for position in range(start):
            taken[np.argmax((position + 1) * shares - taken * shares.sum())] += 1
        return _turns(sizes, taken).concatenate(_turns(sizes).repeat()), taken


class _Splits:
    """Split → object with `num_examples`; iterates over what all members have."""

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
        sizes = []
        for name, splits in self._splits.items():
            try:
                sizes.append(splits[split].num_examples)
            except (KeyError, ValueError) as error:
                raise InputError(
                    f"tfds_split must name a split of every corpus of {self._name}, "
                    f"received {split!r}, but {name} has only "
                    f"{', '.join(sorted(splits)) or 'none'}; name "
                    f"{' or '.join([*sorted(self), 'all'])}"
                ) from error
        return sizes


def _turns(sizes: Sequence[int], taken: np.ndarray | None = None) -> "tf.data.Dataset":
    """The members whose turns are next, int64: the one that lags most behind its share,
    so that at the end each has had as many as it has examples; `taken` came before.
    """
    import tensorflow as tf

    taken = tf.zeros(len(sizes), tf.int64) if taken is None else tf.constant(taken)
    start, total = tf.reduce_sum(taken), sum(sizes)
    sizes = tf.constant(sizes, tf.int64)

    def turn(
        taken: "tf.Tensor", position: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        # (position + 1) · size / total - taken, in integers.
        lag = (position + 1) * sizes - taken * total
        # Argmax promises nothing for ties, so there are none.
        member = tf.argmax(lag * len(sizes) - members)
        return taken + tf.cast(members == member, tf.int64), member

    members = tf.range(len(sizes), dtype=tf.int64)
    return tf.data.Dataset.range(start, total).scan(taken, turn)


def _merged_metadata(members: dict[str, Any]) -> dict[str, Any]:
    """The members' counts as a corpus's, each reason with the member's name."""
    notes = {name: builder.info.metadata or {} for name, builder in members.items()}

    def merged(key: str) -> dict[str, Any]:
        return {
            f"{name}: {reason}": value
            for name, note in notes.items()
            for reason, value in note.get(key, {}).items()
        }

    def listed(key: str) -> list[str]:
        return [
            f"{name}: {line}"
            for name, note in notes.items()
            for line in note.get(key, [])
        ]

    return {
        "kept": sum(note.get("kept", 0) for note in notes.values()),
        "dropped": merged("dropped"),
        "filtered": listed("filtered"),
        "converted": merged("converted"),
        "examples": merged("examples"),
        "summary": listed("summary"),
        "notes": {name: note.get("notes", {}) for name, note in notes.items()},
    }

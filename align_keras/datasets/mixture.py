"""Several prepared corpora as one."""

import types

from align_keras.utils.errors import InputError


class Mixture:
    """Several corpora, each with all its pictures, as one prepared builder.

    It has what this package uses of a TFDS builder: `name`, `as_dataset`,
    `info.splits[split].num_examples` and `info.metadata`.

    The members' examples follow each other in proportion to their number, so
    that any stretch of the order, such as a shuffle buffer that doesn't hold
    them all, has its share of each. The order depends on nothing but the
    members' sizes, and every example comes once. Ids begin with the member's
    name, for only this makes them unique.

    Args:
        members: dict, name of the corpus → prepared TFDS builder.

    Example:

    >>> mixture = build_corpus("clipart+emoji")  # doctest: +SKIP
    >>> mixture.info.splits["train"].num_examples  # doctest: +SKIP
    9991
    """

    def __init__(self, members):
        self._members = dict(members)
        self.name = "+".join(self._members)
        self.info = types.SimpleNamespace(
            splits=_Splits(self.name, self._members),
            metadata=_merged_metadata(self._members),
        )

    def as_dataset(
        self, *, split, shuffle_files=False, decoders=None, read_config=None
    ):
        """Reads a split of all members.

        Args:
            split: str, such as `"train"`, `"train[:10%]"` (of each member) or
                `"all"`; every member must have it.
            shuffle_files: bool, see `tfds.core.DatasetBuilder.as_dataset`.
            decoders: dict, see there.
            read_config: `tfds.ReadConfig`, see there.

        Returns:
            `tf.data.Dataset` of the members' examples.

        Raises:
            InputError: a member lacks the split.
        """
        import tensorflow as tf  # Here, for naming a mixture must not load it.

        def read(name, builder):
            dataset = builder.as_dataset(
                split=split,
                shuffle_files=shuffle_files,
                decoders=decoders,
                read_config=read_config,
            )
            return dataset.map(
                lambda example: {
                    **example,
                    "id": tf.strings.join([name, "/", example["id"]]),
                }
            )

        sizes = self.info.splits.sizes(split)
        datasets = [read(*member) for member in self._members.items()]
        return tf.data.Dataset.choose_from_datasets(
            datasets, _turns(sizes), stop_on_empty_dataset=False
        )


class _Splits:
    """Split → object with `num_examples`; iterates over what all members have."""

    def __init__(self, name, members):
        self._name = name
        self._splits = {name: builder.info.splits for name, builder in members.items()}

    def __getitem__(self, split):
        return types.SimpleNamespace(num_examples=sum(self.sizes(split)))

    def __iter__(self):
        first, *others = self._splits.values()
        return (split for split in first if all(split in other for other in others))

    def sizes(self, split):
        """Returns the list of the members' numbers of examples."""
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


def _turns(sizes):
    """The number of the member whose turn it is, a dataset of sum(sizes) int64.

    The turn is the member's that lags most behind its share, the first one's of
    several. At the end the shares are whole, so that every member has had as
    many turns as it has examples.
    """
    import tensorflow as tf

    members = tf.range(len(sizes), dtype=tf.int64)
    sizes = tf.constant(sizes, tf.int64)
    total = tf.reduce_sum(sizes)

    def turn(taken, position):
        # (position + 1) · size / total - taken, in integers; 2^63 is out of
        # reach for less than a milliard of examples.
        lag = (position + 1) * sizes - taken * total
        # Argmax promises nothing for ties, so there are none.
        member = tf.argmax(lag * len(members) - members)
        return taken + tf.cast(members == member, tf.int64), member

    return tf.data.Dataset.range(total).scan(tf.zeros_like(sizes), turn)


def _merged_metadata(members):
    """The members' counts as a corpus's, each reason with the member's name."""
    notes = {name: builder.info.metadata or {} for name, builder in members.items()}

    def merged(key):
        return {
            f"{name}: {reason}": value
            for name, own in notes.items()
            for reason, value in own.get(key, {}).items()
        }

    def listed(key):
        return [
            f"{name}: {line}"
            for name, own in notes.items()
            for line in own.get(key, [])
        ]

    return {
        "kept": sum(own.get("kept", 0) for own in notes.values()),
        "dropped": merged("dropped"),
        "filtered": listed("filtered"),
        "converted": merged("converted"),
        "examples": merged("examples"),
        "summary": listed("summary"),
        "notes": {name: own.get("notes", {}) for name, own in notes.items()},
    }

"""Stored records in an order that is shuffled, repeatable and cheap to resume."""

import numpy as np
import tensorflow as tf

from align_keras.data.shards import Shards
from align_keras.datasets.mixture import Mixture

# Files that are read at the same time and mixed.
_CYCLE_LENGTH = 16


def shuffled_records(
    builder,
    split,
    *,
    seed,
    start,
    shuffle_buffer_size,
    cycle_length=_CYCLE_LENGTH,
    input_pipeline_id=0,
    num_input_pipelines=1,
    pair_weighted=False,
):
    """Endless records, of which each epoch holds every one once.

    Each epoch takes the files (shards) in another order, `cycle_length` of them
    at a time. Such a window's files are read in parallel and interleaved, then
    drawn from a buffer. Where a window begins is known from the files' lengths,
    so a start anywhere reads no other window than its own. The records of a
    `Mixture`'s members, each ordered in this way, come in proportion to their
    number. If `pair_weighted`, an epoch holds a record once for each of its captions,
    in several such passes over the files (see `Shards`).

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them.
        split: str.
        seed: int; the order is a function of it and of the other arguments.
        start: int ≥ 0, records (or pairs) to leave out.
        shuffle_buffer_size: int ≥ 1, records to draw from.
        cycle_length: int ≥ 1, files in a window.
        input_pipeline_id: int, which part of the stored order to read.
        num_input_pipelines: int ≥ 1, parts of equal size.
        pair_weighted: bool, see above.

    Returns:
        `tf.data.Dataset` of (prefix of the id, serialized example), scalar
        strings, and if `pair_weighted` the number of the caption, int64.

    Raises:
        InputError: if the corpus is stored neither as TFRecord nor as ArrayRecord.
    """

    def shards_of(member):
        part = (input_pipeline_id, num_input_pipelines)
        return Shards(member, split, *part, pair_weighted=pair_weighted)

    if not isinstance(builder, Mixture):
        shards = shards_of(builder)
        return _windows(shards, seed, start, shuffle_buffer_size, cycle_length, "")
    members = {name: shards_of(member) for name, member in builder.members.items()}
    members = {name: shards for name, shards in members.items() if len(shards)}
    sizes = [shards.num_entries for shards in members.values()]
    epoch, position = divmod(start, sum(sizes))
    turns, taken = builder.endless_turns(sizes, position)
    datasets = [
        _windows(
            shards,
            seed + number,  # Members of equal size have orders of their own.
            epoch * sizes[number] + taken[number],
            max(1, shuffle_buffer_size * sizes[number] // sum(sizes)),
            cycle_length,
            f"{name}/",
        )
        for number, (name, shards) in enumerate(members.items())
    ]
    return tf.data.Dataset.choose_from_datasets(datasets, turns)


def shuffle(dataset, buffer_size, seed, seed_2, *, reshuffle_each_iteration):
    """`dataset.shuffle` by these seeds alone, whatever `tf.random.set_seed` was.

    Args:
        dataset: `tf.data.Dataset`.
        buffer_size: int ≥ 1.
        seed: int or int64 tensor ().
        seed_2: the same; not both 0, which stands for a random seed.
        reshuffle_each_iteration: bool, another order when `repeat` comes again.

    Returns:
        `tf.data.Dataset` of the same elements.
    """
    spec = dataset.element_spec
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer_size,
        seed=tf.cast(seed, tf.int64),
        seed2=tf.cast(seed_2, tf.int64),
        output_types=[part.dtype for part in tf.nest.flatten(spec)],
        output_shapes=[part.shape for part in tf.nest.flatten(spec)],
        reshuffle_each_iteration=reshuffle_each_iteration,
    )
    return tf.data.experimental.from_variant(variant, spec)


def _windows(shards, seed, start, shuffle_buffer_size, cycle_length, prefix):
    """The endless records of one corpus."""
    windows, passes = -(-len(shards) // cycle_length), len(shards.sizes)

    def chosen(number):
        """The numbers of the window's shards; windows count through all passes."""
        number_of_pass, window = number // windows, number % windows
        seeds = tf.stack([tf.cast(seed, tf.int64), number_of_pass])
        numbers = tf.random.stateless_uniform(
            (len(shards),), seeds, minval=None, maxval=None, dtype=tf.int64
        )
        first = window * cycle_length
        return tf.argsort(numbers, stable=True)[first : first + cycle_length]

    def read(number):
        records = shards.interleaved(chosen(number), number // windows % passes)
        return shuffle(
            records,
            shuffle_buffer_size,
            seed,
            number + 1,
            reshuffle_each_iteration=False,
        )

    epoch, skipped = divmod(start, shards.num_entries)
    first = number = epoch * passes * windows
    for number in range(first, first + passes * windows):
        sizes = shards.sizes[number // windows % passes]
        size = int(np.sum(sizes[chosen(number)]))
        if skipped < size:
            break
        skipped -= size
    return (
        tf.data.Dataset.range(number, tf.int64.max)
        .flat_map(read)
        .skip(skipped)
        .map(lambda *record: (prefix, *record))
    )

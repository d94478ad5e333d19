"""Order of the pairs in training, which is shuffled, reproducible and resumable."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.data.shards import Shards, caption_counts, enough_shards
from align_keras.data.stored_pairs import DECODERS, split_size, stored_pairs
from align_keras.datasets.mixture import Mixture

# Features of an example that training needs. Parsing all stored features takes twice
# as long.
_FEATURES = ("image", "captions", "id", "caption_sources")
# Number of files that are read at the same time and interleaved.
_CYCLE_LENGTH = 16
# Number of entries whose order is drawn at once when two streams are mixed. Larger
# blocks use more memory at the start, and smaller blocks mix the streams more evenly
# than a random order.
MIXED_ENTRIES_PER_BLOCK = 1 << 16
# Bits that are flipped in a seed, so that each use of the seed has independent random
# numbers.
_TURNS_SALT = 1 << 40
_HELD_SALT = 1 << 41


def ordered_pairs(
    builder: Any,
    split: str,
    read: Callable,
    *,
    batch_size: int,
    start_step: int,
    seed: int = 0,
    shuffle_buffer_size: int = 20_000,
    cache: bool = False,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
    pair_weighted: bool = False,
) -> tf.data.Dataset:
    """Returns endless pairs in training order, starting at the first row of a step.

    Args:
        builder: TFDS builder, source or mixture.
        split: name of the split.
        read: function of an example with `image` (encoded), `captions`, `id`, and
            `caption_sources` if the corpus has them.
        batch_size: rows of a batch over all input pipelines.
        start_step: number of batches to skip.
        seed: seed of the order.
        shuffle_buffer_size: size of the shuffle buffer in records or pairs.
        cache: call `read` before shuffling and cache its results in memory.
            Otherwise `read` is called after shuffling.
        input_pipeline_id: number of this input pipeline.
        num_input_pipelines: a divisor of `batch_size`.
        pair_weighted: use an image once for each of its captions in an epoch.

    Returns:
        `tf.data.Dataset` of (row number, (`read(example)`, captions)). The row number,
        int64, counts the rows of all batches since step 0. `captions`, string (m,), are
        all captions of the image, or a single caption if `pair_weighted`.
    """
    split_size(builder, split)
    rows = batch_size // num_input_pipelines
    has_separate_files = not cache and enough_shards(
        builder, split, num_input_pipelines
    )
    start = start_step * (rows if has_separate_files else batch_size)
    if cache:
        pairs = stored_pairs(builder, split)
        pairs = pairs.map(
            lambda example: (read(example), example["captions"]), tf.data.AUTOTUNE
        ).cache()
        if pair_weighted:
            pairs = pairs.flat_map(_each_caption)
            # The captions of an image follow each other, so only a buffer of all pairs
            # spreads them over the epoch. The copies of an image share its pixels.
            shuffle_buffer_size = max(
                shuffle_buffer_size, _num_captions(builder, split)
            )
        # TensorFlow replaces the seeds (0, 0) by a random seed.
        seed_2 = seed or 2**31 - 1
        pairs = shuffle(
            pairs, shuffle_buffer_size, seed, seed_2, reshuffle_each_iteration=True
        )
        pairs = pairs.repeat().enumerate().skip(start)
    else:
        pairs = shuffled_records(
            builder,
            split,
            seed=seed,
            start=start,
            shuffle_buffer_size=shuffle_buffer_size,
            pair_weighted=pair_weighted,
            input_pipeline_id=input_pipeline_id if has_separate_files else 0,
            num_input_pipelines=num_input_pipelines if has_separate_files else 1,
        ).enumerate(start)

    all_features = builder.info.features
    features = tfds.features.FeaturesDict(
        {name: all_features[name] for name in _FEATURES if name in all_features}
    )

    def number_in_batches(number: tf.Tensor, record: Any) -> tuple[tf.Tensor, Any]:
        step = number // rows
        row = number % rows
        return step * batch_size + input_pipeline_id * rows + row, record

    def is_row_of_pipeline(number: tf.Tensor, record: Any) -> tf.Tensor:
        return number % batch_size // rows == input_pipeline_id

    def parse(prefix: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        example = features.deserialize_example(serialized, decoders=DECODERS)
        example["id"] = tf.strings.join([prefix, example["id"]])
        return example

    def read_image(
        number: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tuple[Any, tf.Tensor]]:
        prefix, serialized = record
        example = parse(prefix, serialized)
        return number, (read(example), example["captions"])

    def read_pair(
        number: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tuple[Any, tf.Tensor]]:
        prefix, serialized, caption = record
        example = parse(prefix, serialized)
        return number, (read(example), example["captions"][caption, None])

    if num_input_pipelines > 1 and has_separate_files:
        pairs = pairs.map(number_in_batches)
    elif num_input_pipelines > 1:
        pairs = pairs.filter(is_row_of_pipeline)
    if cache:
        return pairs
    return pairs.map(read_pair if pair_weighted else read_image, tf.data.AUTOTUNE)


def _num_captions(builder: Any, split: str) -> int:
    """Returns the number of captions in a split."""
    members = builder.members.values() if isinstance(builder, Mixture) else [builder]
    return sum(
        int(counts.sum())
        for member in members
        for counts in caption_counts(member, split).values()
    )


def _each_caption(value: Any, captions: tf.Tensor) -> tf.data.Dataset:
    """Returns a dataset with one pair of the value and a caption for each caption."""
    single_captions = tf.data.Dataset.from_tensor_slices(captions[:, None])
    return single_captions.map(lambda caption: (value, caption))


def shuffled_records(
    builder: Any,
    split: str,
    *,
    seed: int,
    start: int,
    shuffle_buffer_size: int,
    cycle_length: int = _CYCLE_LENGTH,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
    pair_weighted: bool = False,
) -> tf.data.Dataset:
    """Returns endless shuffled records. An epoch contains each record once.

    Each epoch reads the files in a different order, `cycle_length` files at a time.
    These files are called a window. The records of a window are interleaved and then
    shuffled with a buffer. The sizes of the files determine the position at which each
    window starts, so that resuming reads only one window that isn't used completely.
    The members of a `Mixture` are mixed in proportion to their sizes or weights.

    With `pair_weighted`, an epoch contains a record once for each of its captions, in
    several passes over the files (see `Shards`). The images with the most captions are
    held in memory, and their captions are at random positions of the epoch.

    Args:
        builder: TFDS builder, source or mixture.
        split: name of the split.
        seed: seed of the order.
        start: number of entries to skip.
        shuffle_buffer_size: size of the shuffle buffer in records.
        cycle_length: number of files in a window.
        input_pipeline_id: number of this input pipeline.
        num_input_pipelines: number of input pipelines that share the files.
        pair_weighted: see above.

    Returns:
        `tf.data.Dataset` of (prefix of the id, serialized example), or of (prefix of
        the id, serialized example, number of the caption) if `pair_weighted`.
    """

    def shards_of(member: Any) -> Shards:
        return Shards(
            member,
            split,
            input_pipeline_id,
            num_input_pipelines,
            pair_weighted=pair_weighted,
        )

    if not isinstance(builder, Mixture):
        shards = shards_of(builder)
        return _windows(shards, seed, start, shuffle_buffer_size, cycle_length, "")
    members = {name: shards_of(member) for name, member in builder.members.items()}
    members = {name: shards for name, shards in members.items() if len(shards)}
    sizes = builder.shares(
        {name: shards.num_entries for name, shards in members.items()}
    )
    epoch, position = divmod(start, sum(sizes))
    turns, taken = builder.endless_turns(sizes, position)
    datasets = [
        _windows(
            shards,
            seed + number,  # Members of the same size have different orders.
            epoch * sizes[number] + taken[number],
            max(1, shuffle_buffer_size * sizes[number] // sum(sizes)),
            cycle_length,
            f"{name}/",
        )
        for number, (name, shards) in enumerate(members.items())
    ]
    return tf.data.Dataset.choose_from_datasets(datasets, turns)


def shuffle(
    dataset: tf.data.Dataset,
    buffer_size: int,
    seed: int | tf.Tensor,
    seed_2: int | tf.Tensor,
    *,
    reshuffle_each_iteration: bool,
) -> tf.data.Dataset:
    """Shuffles a dataset with two seeds that are not both 0.

    `tf.data.Dataset.shuffle` also depends on the seed of `tf.random.set_seed`. This
    function doesn't.
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


def _windows(
    shards: Shards,
    seed: int,
    start: int,
    shuffle_buffer_size: int,
    cycle_length: int,
    prefix: str,
) -> tf.data.Dataset:
    """Returns the endless records of one corpus, with the prefix of their ids."""
    num_passed = int(shards.sizes.sum())
    num_held = int(shards.held_counts.sum())
    if not num_held:
        records = _passes(shards, seed, start, shuffle_buffer_size, cycle_length)
    elif not num_passed:
        records = _held_records(shards, seed, start)
    else:
        turns, held_before = _turns(num_passed, num_held, seed, start)
        passes_start = start - held_before
        records = tf.data.Dataset.choose_from_datasets(
            [
                _passes(shards, seed, passes_start, shuffle_buffer_size, cycle_length),
                _held_records(shards, seed, held_before),
            ],
            turns,
        )
    if shards.pair_weighted:
        return records.map(lambda record, caption: (prefix, record, caption))
    return records.map(lambda record: (prefix, record))


def _turns(
    passed: int, held: int, seed: int, start: int
) -> tuple[tf.data.Dataset, int]:
    """Mixes two endless streams in a random order.

    In each epoch, the streams have their exact numbers of entries.

    Args:
        passed: number of entries of the first stream in an epoch.
        held: number of entries of the second stream in an epoch.
        seed: seed of the order.
        start: number of entries to skip.

    Returns:
        A `tf.data.Dataset` of int64, the stream of each entry (0 or 1), and the number
        of entries of the second stream among the skipped ones.
    """
    total = passed + held
    blocks = -(-total // MIXED_ENTRIES_PER_BLOCK)

    def block_turns(number: tf.Tensor) -> tf.Tensor:
        """Returns the stream of each entry in a block, int64 (entries,).

        The fraction of entries of the second stream is that of the epoch, rounded to a
        whole number of entries.
        """
        first = number % blocks * MIXED_ENTRIES_PER_BLOCK
        last = tf.minimum(first + MIXED_ENTRIES_PER_BLOCK, total)
        count = last * held // total - first * held // total
        # The salt makes these numbers independent of those in `_passes`.
        seeds = tf.stack([tf.cast(seed, tf.int64) ^ _TURNS_SALT, number])
        random_numbers = tf.random.stateless_uniform(
            (last - first,), seeds, minval=None, maxval=None, dtype=tf.int64
        )
        ranks = tf.argsort(tf.argsort(random_numbers, stable=True), stable=True)
        return tf.cast(tf.cast(ranks, tf.int64) < count, tf.int64)

    epoch, position = divmod(start, total)
    block, skipped = divmod(position, MIXED_ENTRIES_PER_BLOCK)
    number = epoch * blocks + block
    first_turns = block_turns(tf.constant(number, tf.int64)).numpy()
    before = epoch * held + block * MIXED_ENTRIES_PER_BLOCK * held // total
    before += int(first_turns[:skipped].sum())
    turns = tf.data.Dataset.range(number, tf.int64.max).map(block_turns)
    return turns.unbatch().skip(skipped), before


def _held_records(shards: Shards, seed: int, start: int) -> tf.data.Dataset:
    """Returns the endless captions of the images in memory.

    The captions are shuffled differently in each epoch.
    """
    images = np.repeat(np.arange(len(shards.held_counts)), shards.held_counts)
    captions = np.concatenate([np.arange(count) for count in shards.held_counts])
    epoch, skipped = divmod(start, len(images))

    def order(number: tf.Tensor) -> tf.data.Dataset:
        seeds = tf.stack([tf.cast(seed, tf.int64) ^ _HELD_SALT, number])
        random_numbers = tf.random.stateless_uniform(
            (len(images),), seeds, minval=None, maxval=None, dtype=tf.int64
        )
        positions = tf.argsort(random_numbers, stable=True)
        return tf.data.Dataset.from_tensor_slices(positions)

    def entry(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        record = tf.gather(shards.held, tf.gather(images, position))
        return record, tf.gather(captions, position)

    numbers = tf.data.Dataset.range(epoch, tf.int64.max)
    return numbers.flat_map(order).skip(skipped).map(entry)


def _passes(
    shards: Shards,
    seed: int,
    start: int,
    shuffle_buffer_size: int,
    cycle_length: int,
) -> tf.data.Dataset:
    """Returns the endless records of the files of one corpus, window by window."""
    windows = -(-len(shards) // cycle_length)
    passes = len(shards.sizes)

    def files_of(number: int | tf.Tensor) -> tf.Tensor:
        """Returns the file numbers of a window, which are counted over all passes."""
        number_of_pass = number // windows
        window = number % windows
        seeds = tf.stack([tf.cast(seed, tf.int64), number_of_pass])
        numbers = tf.random.stateless_uniform(
            (len(shards),), seeds, minval=None, maxval=None, dtype=tf.int64
        )
        first = window * cycle_length
        return tf.argsort(numbers, stable=True)[first : first + cycle_length]

    def read(number: tf.Tensor) -> tf.data.Dataset:
        records = shards.interleaved(files_of(number), number // windows % passes)
        return shuffle(
            records,
            shuffle_buffer_size,
            seed,
            number + 1,
            reshuffle_each_iteration=False,
        )

    epoch, skipped = divmod(start, int(shards.sizes.sum()))
    first = epoch * passes * windows
    number = first
    for number in range(first, first + passes * windows):
        sizes = shards.sizes[number // windows % passes]
        size = int(np.sum(sizes[files_of(number)]))
        if skipped < size:
            break
        skipped -= size
    return tf.data.Dataset.range(number, tf.int64.max).flat_map(read).skip(skipped)

"""Which pairs a batch holds."""

import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.data.records import shuffle, shuffled_records
from align_keras.data.shards import enough_shards
from align_keras.data.stored_pairs import DECODERS, split_size, stored_pairs
from align_keras.utils.errors import InputError

# What training takes of an example; a corpus stores much more, which to parse takes as
# long again.
_FEATURES = ("image", "captions", "id")


def ordered_pairs(
    builder,
    split,
    read,
    *,
    batch_size,
    start_step,
    seed,
    shuffle_buffer_size,
    cache,
    input_pipeline_id,
    num_input_pipelines,
    pair_weighted=False,
):
    """Endless pairs in training order, from the first row of a step.

    Args:
        builder: prepared TFDS builder, or a `Mixture` of them.
        split: str.
        read: callable of an example (`image`, undecoded, `captions` and `id`) → what
            is made of it, but for its captions, before shuffling if `cache` (and
            kept), else after it.
        batch_size: int, pairs a batch over all input pipelines.
        start_step: int ≥ 0, batches to leave out.
        seed: int.
        shuffle_buffer_size: int ≥ 1, pairs to draw from.
        cache: bool, keep what `read` returns in memory.
        input_pipeline_id: int, whose rows of each batch to give.
        num_input_pipelines: int, a divisor of `batch_size`.
        pair_weighted: bool, an image comes once an epoch for each of its captions.

    Returns:
        `tf.data.Dataset` of `(number, (read(example), captions))`: the number of the
        row in the rows of all batches, and the captions, of which one is to be
        drawn: all of the image's, or if `pair_weighted` the one whose turn it is.

    Raises:
        InputError: if `input_pipeline_id` or `num_input_pipelines` don't fit.
    """
    split_size(builder, split)
    _check_input_pipelines(batch_size, input_pipeline_id, num_input_pipelines)
    rows = batch_size // num_input_pipelines
    own_files = not cache and enough_shards(builder, split, num_input_pipelines)
    start = start_step * (rows if own_files else batch_size)
    if cache:
        pairs = stored_pairs(builder, split).map(
            lambda example: (read(example), example["captions"]), tf.data.AUTOTUNE
        )
        pairs = pairs.cache()
        if pair_weighted:
            pairs = pairs.flat_map(_each_caption)
        pairs = shuffle(
            pairs, shuffle_buffer_size, *_seeds(seed), reshuffle_each_iteration=True
        )
        pairs = pairs.repeat().enumerate().skip(start)
    else:
        part = {
            "input_pipeline_id": input_pipeline_id,
            "num_input_pipelines": num_input_pipelines,
        }
        pairs = shuffled_records(
            builder,
            split,
            seed=seed,
            start=start,
            shuffle_buffer_size=shuffle_buffer_size,
            pair_weighted=pair_weighted,
            **(part if own_files else {}),
        ).enumerate(start)

    known = builder.info.features
    features = tfds.features.FeaturesDict({name: known[name] for name in _FEATURES})

    def number_in_batches(number, record):
        step, row = number // rows, number % rows
        return step * batch_size + input_pipeline_id * rows + row, record

    def is_own(number, _):
        return number % batch_size // rows == input_pipeline_id

    def read_record(number, record):
        prefix, serialized, *caption = record
        example = features.deserialize_example(serialized, decoders=DECODERS)
        example["id"] = tf.strings.join([prefix, example["id"]])
        captions = example["captions"]
        return number, (
            read(example),
            captions[caption[0], None] if caption else captions,
        )

    if num_input_pipelines > 1:
        pairs = pairs.map(number_in_batches) if own_files else pairs.filter(is_own)
    return pairs if cache else pairs.map(read_record, tf.data.AUTOTUNE)


def _each_caption(value, captions):
    """The same value once for each caption, which alone is beside it."""
    captions = tf.data.Dataset.from_tensor_slices(captions[:, None])
    return captions.map(lambda own: (value, own))


def _seeds(seed):
    """Two seeds, since (0, 0) stands for a random one."""
    return (seed, seed) if seed else (0, 2**31 - 1)


def _check_input_pipelines(batch_size, input_pipeline_id, num_input_pipelines):
    if num_input_pipelines < 1 or batch_size % num_input_pipelines:
        raise InputError(
            f"num_input_pipelines must divide global_batch_size ({batch_size}), "
            f"received {num_input_pipelines}; change one of them."
        )
    if not 0 <= input_pipeline_id < num_input_pipelines:
        raise InputError(
            f"input_pipeline_id must lie in [0, {num_input_pipelines}), received "
            f"{input_pipeline_id}; count the hosts from 0."
        )

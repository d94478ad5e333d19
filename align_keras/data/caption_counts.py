"""How many captions each stored image has."""

import pathlib
import zipfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.datasets.array_records import array_records, is_array_record
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

# Beside the data, so that they are counted once.
_FILE = "caption_counts.npz"
_READ_AT_ONCE = 256


def caption_counts(builder, split):
    """Counts the captions of a split's images.

    The first time, all of the split's files are read; the counts are then kept beside
    them, unless their folder can't be written.

    Args:
        builder: prepared TFDS builder.
        split: str, such as `"train"` or `"train[:10%]"`.

    Returns:
        dict, a file's path → uint32 array (images,) of all images in that file.
    """
    store = pathlib.Path(builder.data_path) / _FILE
    kept, parts = _read_kept(store), builder.info.splits[split].file_instructions
    missing = [
        part
        for part in parts
        if len(kept.get(part.basename(), ())) != part.examples_in_shard
    ]
    if missing:
        say(f"counting the captions of {len(missing):,} files of {builder.name}")
        kept |= {part.basename(): _count(builder, part) for part in missing}
        _keep(store, kept)
    return {str(part.filename): kept[part.basename()] for part in parts}


def count_captions(builder, serialized):
    """Returns the number of captions of a serialized example, an int32 tensor ()."""
    own = {"captions": builder.info.features["captions"]}
    features = tfds.features.FeaturesDict(own)
    return tf.size(features.deserialize_example(serialized)["captions"])


def _count(builder, part):
    if is_array_record(builder):
        records = array_records(str(part.filename), 0, part.examples_in_shard)
    else:
        records = tf.data.TFRecordDataset(str(part.filename))
    counts = records.map(
        lambda record: count_captions(builder, record), tf.data.AUTOTUNE
    ).batch(_READ_AT_ONCE)
    parts = [own.astype(np.uint32) for own in counts.as_numpy_iterator()]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def _read_kept(store):
    try:
        with np.load(store) as kept:
            return dict(kept)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}  # There is none, or it is damaged.


def _keep(store, counts):
    try:
        with atomic_write(store, "wb") as file:
            np.savez(file, **counts)
    except OSError:
        return  # A folder that is only read; they are counted again next time.

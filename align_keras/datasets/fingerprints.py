"""Fingerprints of training pairs, with which a run detects changed data."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from align_keras.corpus.shard_folder import INDEX
from align_keras.datasets.array_records import stored_examples
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.pair_builder import FINGERPRINTS, examples_fingerprint
from align_keras.datasets.selected_pairs import SelectedPairs
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.files import read_json

# Matches the names of the splits in a specification such as "train[:90%]+test".
_SPLIT_NAME = re.compile(r"(?:^|\+)\s*([\w.-]+)")


def pairs_fingerprint(builder: Any, split: str) -> str:
    """Returns a fingerprint of the pairs of a split.

    The fingerprint covers the ids, captions and pixels of a prepared corpus, the
    checksums of shards, or the captions, positions and sizes of the images in sources.
    The fingerprint is read from the metadata of the corpus if possible. Otherwise it is
    computed from the pairs.

    Args:
        builder: prepared TFDS builder, `Mixture`, `SourcePairs` or
            `SelectedPairs`.
        split: for example `"train[:90%]"`. The fingerprint covers each named split as
            a whole.

    Returns:
        str, hexadecimal.
    """
    if isinstance(builder, Mixture):
        parts = [
            f"{name} {pairs_fingerprint(member, split)}"
            for name, member in builder.members.items()
        ]
        return _joined(parts)
    if isinstance(builder, SelectedPairs):
        parts = [pairs_fingerprint(builder.builder, split), builder.fingerprint()]
        return _joined(parts)
    names = _split_names(split, builder.info.splits)
    if isinstance(builder, SourcePairs):
        return builder.fingerprint("+".join(names))
    stored = (builder.info.metadata or {}).get(FINGERPRINTS, {})
    if all(name in stored for name in names):
        return _joined(f"{name} {stored[name]}" for name in names)
    index = os.path.join(builder.data_path, INDEX)
    if os.path.isfile(index):
        shards = read_json(index).get("shards", ())
        return _joined(f"{shard['file']} {shard['sha256']}" for shard in shards)
    return _joined(f"{name} {_read_fingerprint(builder, name)}" for name in names)


def _split_names(split: str, splits: Mapping[str, Any]) -> Sequence[str]:
    names = _SPLIT_NAME.findall(split)
    return sorted(splits) if "all" in names else sorted(set(names))


def _read_fingerprint(builder: Any, split: str) -> str:
    """Reads a split and returns the fingerprint that `PairBuilder` would store."""
    features = builder.info.features
    # The key identifies the pixels. Data sets without a key use the encoded image.
    image = "image_key" if "image_key" in features else "image"
    decoding = tfds.decode.PartialDecoding(
        {"id": True, "captions": True, image: True},
        {"image": tfds.decode.SkipDecoding()} if image == "image" else None,
    )
    return examples_fingerprint(
        (
            example["id"].decode(),
            [caption.decode() for caption in example["captions"]],
            example[image],
        )
        for example in tfds.as_numpy(stored_examples(builder, split, decoding))
    )


def _joined(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

"""Tar shards of small images, in the format of img2dataset."""

import io
import tarfile

import numpy as np
from PIL import Image

from align_keras.datasets import open_sources
from align_keras.datasets.mixture import Mixture


def jpeg(number, size=(24, 20)):
    """Returns a JPEG of a single color that depends on its number."""
    file = io.BytesIO()
    color = (number * 7 % 256, number * 11 % 256, number * 13 % 256)
    Image.new("RGB", size, color).save(file, "JPEG", quality=95)
    return file.getvalue()


def samples(first, count):
    """Returns a list of (key, {suffix: content}), in the format of img2dataset."""
    return [
        (
            f"{number:05}",
            {"jpg": jpeg(number), "txt": f"caption {number}".encode(), "json": b"{}"},
        )
        for number in range(first, first + count)
    ]


def write_tar(path, rows):
    """Writes the samples of `samples` to a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in rows:
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_tars(folder, files=4, count=6):
    """Writes `files` tar files of `count` samples each. Returns the folder."""
    for file in range(files):
        write_tar(folder / f"{file:05}.tar", samples(file * count, count))
    return folder


def order(builder, count, split="train", start=0, seed=0, **arguments):
    """Returns (id, caption) of the first `count` records in shuffled order."""
    import tensorflow_datasets as tfds

    from align_keras.data.order import shuffled_records

    arguments = {"shuffle_buffer_size": 3, "cycle_length": 2, **arguments}
    records = shuffled_records(builder, split, seed=seed, start=start, **arguments)
    members = builder.members.values() if isinstance(builder, Mixture) else [builder]
    member_features = next(iter(members)).info.features
    features = tfds.features.FeaturesDict(
        {name: member_features[name] for name in ("id", "captions")}
    )
    entries = []
    for prefix, record, *caption in records.take(count).as_numpy_iterator():
        example = features.deserialize_example_np(record)
        text = example["captions"][caption[0] if caption else 0]
        entries.append(((prefix + example["id"]).decode(), text.decode()))
    return entries


def captions(entries):
    """Returns the captions of the (id, caption) pairs of `order`."""
    return [caption for _, caption in entries]


def open_folder(folder, **options):
    return open_sources(str(folder), **options)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))

"""Shards as people keep them, of small images."""

import io
import tarfile

import numpy as np
from PIL import Image

from align_keras.datasets import open_sources
from align_keras.datasets.mixture import Mixture


def jpeg(number, size=(24, 20)):
    """A JPEG file of one color, by which it can be told."""
    file = io.BytesIO()
    color = (number * 7 % 256, number * 11 % 256, number * 13 % 256)
    Image.new("RGB", size, color).save(file, "JPEG", quality=95)
    return file.getvalue()


def samples(first, count):
    """(key, {suffix: content}) of samples, as img2dataset writes them."""
    return [
        (
            f"{number:05}",
            {"jpg": jpeg(number), "txt": f"caption {number}".encode(), "json": b"{}"},
        )
        for number in range(first, first + count)
    ]


def write_tar(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in rows:
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_tars(folder, files=4, count=6):
    """Writes `files` tars of `count` samples; returns the folder."""
    for file in range(files):
        write_tar(folder / f"{file:05}.tar", samples(file * count, count))
    return folder


def order(builder, count, split="train", start=0, seed=0, **arguments):
    """The (id, caption) of the first records of the shuffled order."""
    import tensorflow_datasets as tfds

    from align_keras.data.order import shuffled_records

    arguments = {"shuffle_buffer_size": 3, "cycle_length": 2, **arguments}
    records = shuffled_records(builder, split, seed=seed, start=start, **arguments)
    first = builder.members.values() if isinstance(builder, Mixture) else [builder]
    known = next(iter(first)).info.features
    features = tfds.features.FeaturesDict(
        {name: known[name] for name in ("id", "captions")}
    )
    found = []
    for prefix, record, *caption in records.take(count).as_numpy_iterator():
        example = features.deserialize_example_np(record)
        text = example["captions"][caption[0] if caption else 0]
        found.append(((prefix + example["id"]).decode(), text.decode()))
    return found


def captions(entries):
    return [caption for _, caption in entries]


def open_folder(folder, **options):
    return open_sources(str(folder), **options)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))

"""Readers of CLIP_benchmark's folders of tar shards (the format webdataset).

```
FOLDER/
    dataset_type.txt     "retrieval", "multilabel", or no file for classes
    classnames.txt       one class in each line
    zeroshot_classification_templates.txt
                         one prompt with {c} in each line
    test/nshards.txt     number of shards
    test/0.tar           KEY.webp and KEY.cls, or KEY.txt with captions
```

`clip_benchmark_export_wds` writes these folders.
"""

import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
from align_keras.datasets.benchmarks.labeled_images import LabeledImages
from align_keras.datasets.benchmarks.shard_images import ImageSpan, ShardImages
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# Suffixes of images in the order in which CLIP_benchmark searches for them.
_IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")
_SHARD_COUNT = "nshards.txt"
_TEMPLATES = "zeroshot_classification_templates.txt"
# Bytes. Captions and labels are much shorter.
_MAX_TEXT_BYTES = 1 << 20


class _Sample(NamedTuple):
    """Sample of a shard.

    Attributes:
        key: name of the members up to the first dot.
        text: content of the label or of the captions.
    """

    key: str
    image: ImageSpan
    text: str


def is_shard_folder(folder: str | os.PathLike) -> bool:
    """Returns True for a folder of CLIP_benchmark with `SPLIT/nshards.txt`."""
    return bool(_splits(pathlib.Path(folder)))


def shard_templates(folder: str | os.PathLike) -> pathlib.Path | None:
    """Returns the file of prompts in a folder of CLIP_benchmark, or None."""
    path = pathlib.Path(folder, _TEMPLATES)
    return path if path.is_file() else None


def read_shard_captions(
    folder: str | os.PathLike, split: str = "test"
) -> CaptionedImages:
    """Reads images with captions from a folder of CLIP_benchmark.

    Args:
        folder: folder with `dataset_type.txt`, which contains `retrieval`.
        split: name of the folder of shards.

    Returns:
        `CaptionedImages`. The images are read when they are used. The ids are the keys
        of the samples.

    Raises:
        InputError: if the folder has another type, or a shard is missing or damaged.
    """
    folder = pathlib.Path(folder)
    _check_type(folder, "retrieval")
    samples = list(_samples(folder, split, "txt"))
    captions = [sample.text.splitlines() for sample in samples]
    return CaptionedImages(
        images=ShardImages([sample.image for sample in samples]),
        captions=captions,
        image_ids=[sample.key for sample in samples],
        caption_ids=[
            [f"{sample.key}#{number}" for number in range(len(texts))]
            for sample, texts in zip(samples, captions, strict=True)
        ],
    )


def read_shard_classes(folder: str | os.PathLike, split: str = "test") -> LabeledImages:
    """Reads images with one class each from a folder of CLIP_benchmark.

    Args:
        folder: folder with `classnames.txt`.
        split: name of the folder of shards.

    Returns:
        `LabeledImages`. The images are read when they are used. The ids are the keys of
        the samples.

    Raises:
        InputError: if the folder has another type, or if a shard is missing or damaged.
    """
    folder = pathlib.Path(folder)
    _check_type(folder, "classification")
    content = (folder / "classnames.txt").read_text(encoding="utf-8-sig")
    class_names = [line.strip() for line in content.splitlines()]
    samples = list(_samples(folder, split, "cls"))
    labels = [int(sample.text) for sample in samples]
    return LabeledImages(
        images=ShardImages([sample.image for sample in samples]),
        labels=np.array(labels, np.int64),
        class_names=class_names,
        image_ids=[sample.key for sample in samples],
    )


def _splits(folder: pathlib.Path) -> list[str]:
    """Returns the names of the folders of shards."""
    return sorted(path.parent.name for path in folder.glob(f"*/{_SHARD_COUNT}"))


def _check_type(folder: pathlib.Path, expected: str) -> None:
    """Raises unless a folder has images with captions, or images with one class."""
    path = folder / "dataset_type.txt"
    data_type = "classification"
    if path.exists():
        data_type = path.read_text(encoding="utf-8-sig").strip().lower()
    if data_type == expected:
        return
    remedies = {
        "retrieval": "Evaluate it with the protocol retrieval.",
        "classification": "Evaluate it with the protocol zero_shot.",
    }
    remedy = remedies.get(data_type, "Images with several classes are not supported.")
    raise InputError(
        f"data must be of the type {expected} for this protocol. Received: "
        f"{data_type} in {folder}. {remedy}"
    )


def _samples(folder: pathlib.Path, split: str, suffix: str) -> Iterator[_Sample]:
    """Yields the samples of all shards of a split in their order."""
    check_choice("split", split, _splits(folder), f"Use a split of {folder}.")
    count_path = folder / split / _SHARD_COUNT
    count = int(count_path.read_text(encoding="utf-8-sig"))
    for number in range(count):
        yield from _samples_of_shard(folder / split / f"{number}.tar", suffix)


def _samples_of_shard(path: pathlib.Path, suffix: str) -> Iterator[_Sample]:
    try:
        with tarfile.open(path, "r:") as shard:
            for key, members in _grouped_members(shard):
                yield _sample(path, shard, key, members, suffix)
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path} must be an uncompressed tar file. Received: {problem}."
        ) from None


def _grouped_members(
    shard: tarfile.TarFile,
) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yields each key with its members by their suffixes."""
    # The members of a sample follow each other. Their names are equal up to the first
    # dot.
    current_key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in shard:
        if not member.isreg() or member.issparse():
            continue
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key = folder + slash + stem
        if key != current_key and members:
            yield current_key, members
            members = {}
        current_key = key
        members[suffix.lower()] = member
    if members:
        yield current_key, members


def _sample(
    path: pathlib.Path,
    shard: tarfile.TarFile,
    key: str,
    members: dict[str, tarfile.TarInfo],
    suffix: str,
) -> _Sample:
    image = next((members[name] for name in _IMAGE_SUFFIXES if name in members), None)
    text = members.get(suffix)
    if image is None or text is None or text.size > _MAX_TEXT_BYTES:
        raise InputError(
            f"Each sample of {path} must have an image ({', '.join(_IMAGE_SUFFIXES)}) "
            f"and a short .{suffix} file. Received: {key} with "
            f"{', '.join(sorted(members))}."
        )
    content = shard.extractfile(text)
    assert content is not None  # `text` is a regular file.
    return _Sample(
        key=key,
        image=ImageSpan(str(path), image.offset_data, image.size),
        text=content.read().decode(),
    )

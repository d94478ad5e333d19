"""Locations of public data sets, and metadata columns joined to them."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError

_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


class NamedSet(NamedTuple):
    """Data set in a folder below `data_root`.

    Attributes:
        paths: tuple of str, files and folders that must exist.
        source: address to download it from.
        protocol: protocol that evaluates it.
    """

    paths: tuple[str, ...]
    source: str
    protocol: str = "retrieval"


NAMED = {
    "flickr30k": NamedSet(
        ("flickr30k/dataset_flickr30k.json", "flickr30k/images"),
        f"Karpathy's splits ({_KARPATHY}) and Flickr30K's images "
        "(shannon.cs.illinois.edu/DenotationGraph)",
    ),
    "coco": NamedSet(
        ("coco/dataset_coco.json", "coco/val2014"),
        f"Karpathy's splits ({_KARPATHY}) and COCO's images "
        "(images.cocodataset.org/zips/val2014.zip)",
    ),
    "cxc": NamedSet(
        ("cxc", "coco/dataset_coco.json", "coco/val2014"),
        "github.com/google-research-datasets/Crisscrossed-Captions, and coco",
        "cxc_retrieval",
    ),
    "multi30k": NamedSet(
        ("multi30k", "flickr30k/images"),
        "github.com/multi30k/dataset, and Flickr30K's images",
        "multi30k",
    ),
    "simlex999": NamedSet(
        ("SimLex-999/SimLex-999.txt",), "fh295.github.io/SimLex-999.zip", "simlex"
    ),
}


def missing_download(name: str, root: str | pathlib.Path) -> str | None:
    """Describes the missing paths of a named set and their source, or returns None."""
    paths = [pathlib.Path(root, path) for path in NAMED[name].paths]
    missing_paths = [str(path) for path in paths if not path.exists()]
    if not missing_paths:
        return None
    return f"{NAMED[name].source}, as {' and '.join(missing_paths)}"


def folder_of(request: Request) -> pathlib.Path:
    """Returns the folder of a named set. Raises InputError if the set is incomplete."""
    download = missing_download(request.data, request.data_root)
    if download:
        raise InputError(
            f"data must be a downloaded data set. Received: data={request.data!r}, "
            f"which is incomplete. Download {download}."
        )
    return pathlib.Path(request.data_root)


def preparation_steps(names: Iterable[str]) -> str:
    """Returns an instruction to prepare missing data sets of TFDS, or "" for none."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks

    names = list(dict.fromkeys(names))
    reasons = {}
    for name in names:
        try:
            benchmarks.prepared_builder(name)
        except InputError as error:
            reasons[name] = str(error).rstrip(".")
    if len(reasons) <= 1:
        return "".join(reasons.values())
    by_hand = [
        name
        for name in reasons
        if tfds.builder_cls(name.partition("/")[0]).MANUAL_DOWNLOAD_INSTRUCTIONS
    ]
    text = f"{len(reasons)} of {len(names)} data sets aren't prepared. Run "
    text += f"tfds build {' '.join(reasons)}, or set TFDS_DATA_DIR to their folder"
    if by_hand:
        text += (
            f". First download the files of {' and '.join(by_hand)} by hand, from the "
            "addresses that tfds build prints"
        )
    return text


def join_metadata_columns(data: Any, request: Request, prefix: str = "") -> Any:
    """Adds the columns of the file `request.metadata`, if it is set, to the data.

    Args:
        data: dataclass with `images`, `image_ids` and `columns`.
        request: `Request`.
        prefix: prefix of the ids of images without ids.
    """
    if request.metadata is None:
        return data
    from align_keras.datasets import benchmarks

    ids = data.image_ids
    if ids is None:
        ids = [f"{prefix}{number}" for number in range(len(data.images))]
    table = benchmarks.read_metadata_table(request.metadata)
    metadata_columns = benchmarks.join_metadata(table, ids)
    return dataclasses.replace(data, columns=data.columns | metadata_columns)


def refuse_options(request: Request, reason: str, *options: str) -> None:
    """Raises InputError with the reason, such as "has no splits", for set options."""
    for option in options:
        if value := getattr(request, option):
            raise InputError(
                f"{option} must be left out for {request.data}, which {reason}. "
                f"Received: {option}={value!r}."
            )

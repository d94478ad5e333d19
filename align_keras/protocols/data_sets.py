"""Where the paper's data sets lie, which are there, and columns joined to them."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError

_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


class NamedSet(NamedTuple):
    """A data set that lies below `data_root`."""

    places: tuple[str, ...]  # The files and folders that tell that it is there.
    source: str
    protocol: str = "retrieval"  # Which judges it; this one reads captioned images.


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


def missing(name: str, root: str | pathlib.Path) -> str | None:
    """Returns what must be downloaded for a named set, or None if it is there."""
    paths = [pathlib.Path(root, place) for place in NAMED[name].places]
    absent = [str(path) for path in paths if not path.exists()]
    return f"{NAMED[name].source}, as {' and '.join(absent)}" if absent else None


def folder_of(request: Request) -> pathlib.Path:
    """Returns the folder that holds a named set, or raises unless the set is there."""
    absent = missing(request.data, request.data_root)
    if absent:
        raise InputError(
            f"data must be there, received {request.data}; download {absent}."
        )
    return pathlib.Path(request.data_root)


def what_to_prepare(names: Iterable[str]) -> str:
    """Says what to run for those data sets of TFDS that aren't prepared; empty for
    none.
    """
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks

    names, lacking = list(dict.fromkeys(names)), {}
    for name in names:
        try:
            benchmarks.prepared_builder(name)
        except InputError as error:
            lacking[name] = str(error).rstrip(".")
    if len(lacking) <= 1:
        return "".join(lacking.values())
    by_hand = [
        name
        for name in lacking
        if tfds.builder_cls(name.partition("/")[0]).MANUAL_DOWNLOAD_INSTRUCTIONS
    ]
    text = f"{len(lacking)} of {len(names)} data sets aren't prepared; run "
    text += f"tfds build {' '.join(lacking)}, or set TFDS_DATA_DIR to where they lie"
    if by_hand:
        text += (
            f"; the files of {' and '.join(by_hand)} must be downloaded by hand before "
            "(tfds build says where)"
        )
    return text


def joined(
    data: Any, request: Request, taken: Iterable[str] = (), prefix: str = ""
) -> Any:
    """Returns the data with the columns of `metadata`, if there is one; `taken` are
    columns that the protocol adds, `prefix` begins the numbers of images without ids.
    """
    if request.metadata is None:
        return data
    from align_keras.datasets import benchmarks

    ids = data.image_ids
    if ids is None:
        ids = [f"{prefix}{number}" for number in range(len(data.images))]
    more = benchmarks.join_metadata(
        benchmarks.read_metadata_table(request.metadata), ids, {*data.columns, *taken}
    )
    return dataclasses.replace(data, columns=data.columns | more)


def refuse(request: Request, reason: str, *options: str) -> None:
    """Raises for options that these data can't take, as `"has no splits"` says."""
    for option in options:
        if value := getattr(request, option):
            raise InputError(
                f"{option} must be left out for {request.data}, which {reason}, "
                f"received {value!r}."
            )

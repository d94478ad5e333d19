"""Where each data set of an evaluation lies, and who reads it.

The columns of `--metadata` are joined to what was read in `joined`.
"""

import dataclasses
import pathlib

from align_keras.protocols.evaluation_splits import (
    check_same_classes,
    check_splits_are_apart,
    is_class_folder,
    split_of_classes,
)
from align_keras.protocols.refused_options import (
    check_no_own_protocol,
    check_no_split,
    check_no_table_options,
    check_nothing_is_missing,
)
from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """What the command line says of the data.

    Attributes:
        name: str, a data set's name, or a path of the user's.
        root: `pathlib.Path`, the folder of the named sets that TFDS doesn't have.
        split: str or None, the split that is evaluated.
        train_split: str or None, the split that a probe learns from.
        classes: str or None, a list of class names, as `read_class_names`.
        allow_missing: bool, leave missing pictures out.
        image_column: str or None, of a table of captioned pictures.
        caption_column: str or None, likewise.
        encoding: str or None, likewise.
        metadata: str or None, a table by which pictures get further columns.
    """

    name: str
    root: pathlib.Path
    split: str | None = None
    train_split: str | None = None
    classes: str | None = None
    allow_missing: bool = False
    image_column: str | None = None
    caption_column: str | None = None
    encoding: str | None = None
    metadata: str | None = None


_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
# What lies below the root: the files that tell that a set is there, and its source.
NAMED = {
    "flickr30k": (
        ("flickr30k/dataset_flickr30k.json", "flickr30k/images"),
        f"Karpathy's splits ({_KARPATHY}) and Flickr30K's pictures "
        "(shannon.cs.illinois.edu/DenotationGraph)",
    ),
    "coco": (
        ("coco/dataset_coco.json", "coco/val2014"),
        f"Karpathy's splits ({_KARPATHY}) and COCO's pictures "
        "(images.cocodataset.org/zips/val2014.zip)",
    ),
    "cxc": (
        ("cxc", "coco/dataset_coco.json", "coco/val2014"),
        "github.com/google-research-datasets/Crisscrossed-Captions, and coco",
    ),
    "multi30k": (
        ("multi30k", "flickr30k/images"),
        "github.com/multi30k/dataset, and Flickr30K's pictures",
    ),
    "simlex999": (
        ("SimLex-999/SimLex-999.txt",),
        "fh295.github.io/SimLex-999.zip",
    ),
}
_CORPORA = ("stamps", "icons", "clipart", "emoji")


def missing(name, root):
    """Returns what must be downloaded for a named set, or None if it is there."""
    if name not in NAMED:
        return None
    places, source = NAMED[name]
    absent = [place for place in places if not (root / place).exists()]
    if not absent:
        return None
    return f"{source}, as {' and '.join(str(root / place) for place in absent)}"


def check_present(name, root):
    """Raises unless the named set is there."""
    absent = missing(name, root)
    if absent:
        raise InputError(f"--data {name} isn't there; download {absent}.")


def joined(data, request, taken=(), prefix=""):
    """Returns the data with the columns of `--metadata`, if there is one.

    Args:
        data: any with `image_ids` and `columns`.
        request: `DataRequest`.
        taken: iterable of str, columns that the protocol adds itself.
        prefix: str, before the numbers of pictures that have no ids.

    Returns:
        The same kind of data.
    """
    if request.metadata is None:
        return data
    from align_keras.datasets import benchmarks

    ids = data.image_ids
    if ids is None:
        ids = [f"{prefix}{number}" for number in range(len(data.images))]
    more = benchmarks.join_metadata(
        benchmarks.read_metadata(request.metadata), ids, {*data.columns, *taken}
    )
    return dataclasses.replace(data, columns=data.columns | more)


def captioned_images(request):
    """Reads pictures with captions: `CaptionedImages`."""
    return joined(_captioned_images(request), request)


def _captioned_images(request):
    from align_keras.datasets import benchmarks

    name, root = request.name, request.root
    is_corpus = name.partition("/")[0] in _CORPORA
    if is_corpus or name in NAMED:
        check_no_table_options(request)
    if is_corpus:
        check_nothing_is_missing(request)
    if name in ("flickr30k", "coco"):
        check_present(name, root)
        folder = root / name
        return benchmarks.read_karpathy(
            folder / f"dataset_{name}.json",
            folder / "images" if name == "flickr30k" else folder,
            request.split or "test",
            allow_missing=request.allow_missing,
        )
    if is_corpus:
        return _corpus(name, request.split or "test")
    check_no_own_protocol(request)
    if not pathlib.Path(name).exists():
        raise InputError(
            "--data must be flickr30k, coco, stamps, stamps/de, icons or the path of a "
            f"table or folder of captioned pictures, received {name!r}; check it."
        )
    check_no_split(request)
    return benchmarks.read_caption_files(
        name,
        allow_missing=request.allow_missing,
        image_column=request.image_column,
        caption_column=request.caption_column,
        encoding=request.encoding or "utf-8",
    )


def _corpus(name, split):
    from align_keras.datasets import benchmarks, build_corpus

    pictures = benchmarks.read_stored_images(build_corpus(name), split)
    return benchmarks.CaptionedImages(
        images=[picture.image for picture in pictures],
        captions=[list(picture.captions) for picture in pictures],
        image_ids=[picture.id for picture in pictures],
        caption_ids=[
            [f"{picture.id}#{number}" for number in range(len(picture.captions))]
            for picture in pictures
        ],
        columns={"category": [picture.category for picture in pictures]},
    )


def labelled_images(request, train=False):
    """Reads pictures with classes: `LabelledImages` of the one or the other split."""
    data = _labelled_images(request, train)
    # What is learned from isn't sliced.
    return data if train else joined(data, request, taken=("class",))


def train_and_test(request):
    """Reads what is learned from and what is judged.

    Args:
        request: `DataRequest`.

    Returns:
        Two `LabelledImages` of the same classes without a picture in common.
    """
    check_splits_are_apart(request)  # Before reading, which may take minutes.
    train, test = labelled_images(request, train=True), labelled_images(request)
    check_same_classes(train, test)
    return train, test


def _labelled_images(request, train):
    from align_keras.datasets import benchmarks, build_corpus

    name, split = request.name, split_of_classes(request, train)
    if name == "stamps":
        corpus = build_corpus("stamps")
        data = benchmarks.stamps_by_category(corpus, None if split == "all" else split)
    elif is_class_folder(name):
        data = benchmarks.read_class_folders(name, split)
    else:
        data = benchmarks.read_tfds_classification(name, split)
    if request.classes is not None:
        names = benchmarks.read_class_names(request.classes)
        data = benchmarks.rename_classes(data, names)
    return data


def multilingual_captions(request):
    """Reads pictures with captions in four languages: `MultilingualCaptions`."""
    return joined(_multilingual_captions(request), request)


def _multilingual_captions(request):
    from align_keras.datasets import benchmarks

    if request.name == "stamps":
        check_nothing_is_missing(request)
        return benchmarks.stamps_captions_by_language()
    if request.name != "multi30k":
        raise InputError(
            f"--data must be multi30k or stamps, received {request.name!r}; these have "
            "captions in English, German, French and Czech."
        )
    check_present("multi30k", request.root)
    return benchmarks.read_multi30k(
        request.root / "multi30k",
        request.root / "flickr30k" / "images",
        allow_missing=request.allow_missing,
    )


def crisscrossed_captions(request):
    """Reads CxC: its pictures and captions, its positives and its rated rows."""
    from align_keras.datasets import benchmarks

    if request.name != "cxc":
        raise InputError(
            f"--data must be cxc, received {request.name!r}; its protocols are made of "
            "people's ratings, which no other set has."
        )
    check_present("cxc", request.root)
    split = request.split or "test"
    ratings = benchmarks.read_cxc(request.root / "cxc", split)
    coco = benchmarks.read_karpathy(
        request.root / "coco" / "dataset_coco.json",
        request.root / "coco",
        split,
        captions_per_image=None,
        allow_missing=request.allow_missing,
    )
    data = benchmarks.cxc_captioned_images(
        ratings, coco, allow_missing=request.allow_missing
    )
    return joined(data, request), ratings


def similar_words(request):
    """Reads SimLex-999: a list of `SimLexPair`."""
    from align_keras.datasets import benchmarks

    path = pathlib.Path(request.name)
    if request.name == "simlex999":
        check_present("simlex999", request.root)
        path = request.root / NAMED["simlex999"][0][0]
    return benchmarks.read_simlex(path)

"""A page that searches images in the browser, of a run's index or of other images."""

import base64
import os
import pathlib
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say

# What a page's grid shows at most, on a screen of two pixels a point.
_THUMBNAIL_SIDE = 320
# Decoded images held at once; they may be large.
_BATCH = 16


def write_web(
    align: Any,
    folder: pathlib.Path,
    model: Any,
    *,
    images: str | None = None,
    quantize: str = "none",
    license: str | None = None,
    title: str = "Image search",
    litert_js: str | None = None,
    **table: str | None,
) -> None:
    """Writes a page that searches `images`, or the index of the run folder `model`."""
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer
    from align_keras.export.web_page import check_runtime, write_web_page

    # Before the minutes that embedding may take.
    if quantize == "int8":
        raise InputError(
            "quantize must be none, float16, weight-int8 or dynamic-int8 for a page, "
            "received int8, whose scores differ too much from those of the index; "
            "choose dynamic-int8, which is as small."
        )
    if litert_js is not None:
        check_runtime(litert_js)
    if images is None:
        index = open_index(align, model)
    else:
        index = build_index(align, images, **table)
    write_web_page(
        folder,
        tokenizer=align.tokenizer,
        image_size=align.image_size,
        image_tower=image_flatbuffer(align, quantize, license=license),
        text_tower=text_flatbuffer(align, quantize, license=license),
        index=index,
        title=title,
        runtime=litert_js,
    )
    say(f"{len(index):,} images; README.txt in the folder says how to serve it")


def open_index(align: Any, run: Any) -> Any:
    """Opens the index that a run has left, with thumbnails."""
    from align_keras.search import SearchIndex

    folder = pathlib.Path(run, "index") if isinstance(run, str | os.PathLike) else None
    if folder is None or not folder.is_dir():
        place = f"{run} has no folder `index` of them" if folder else "a model has none"
        raise InputError(
            f"images must name images, since {place}; name a folder of images, or a "
            "table as train_data.pairs takes it."
        )
    index = SearchIndex.load(folder)
    width = align.image_encoder.output_shape[-1]
    if index.dimension != width:
        raise InputError(
            f"the index {folder} must be the model's, of dimension {width}, received "
            f"{index.dimension}; name its images by `images`."
        )
    return index


def build_index(align: Any, images: str, **columns: Any) -> Any:
    """Embeds a user's images, and gives them thumbnails; names those it can't read."""
    import numpy as np

    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.image import ImageError, normalize_image
    from align_keras.search import SearchIndex

    counter = DropCounter("images")
    records = _records(pathlib.Path(images), columns, counter)
    kept, embeddings, thumbnails = [], [], []
    with progress_bar("embedding", "images", len(records)) as bar:
        for start in range(0, len(records), _BATCH):
            batch, pixels = records[start : start + _BATCH], []
            for record in batch:
                try:
                    pixels.append(normalize_image(record.image_path)[0])
                    kept.append(record)
                except ImageError as error:
                    counter.drop(error.reason, record.where, error.detail)
            embeddings.append(align.encode_images(list(map(np.asarray, pixels))))
            thumbnails += [_thumbnail(image) for image in pixels]
            bar.advance(len(batch))
    counter.keep(len(kept))
    counter.check(max_bad_fraction=1.0)
    for line in counter.lines()[1:]:
        say(line)
    return SearchIndex.build(
        np.concatenate(embeddings),
        [record.id for record in kept],
        [record.captions for record in kept],
        thumbnails=thumbnails,
    )


def _records(path, columns, counter):
    """Returns the list of `PairRecord`; in a folder, images without captions too."""
    from align_keras.corpus.drop_counter import DropCounter, printable
    from align_keras.corpus.pair_files import IMAGE_SUFFIXES, PairRecord, read_pairs
    from align_keras.corpus.sources.source_files import list_files

    if not path.is_dir():
        return list(read_pairs(path, counter=counter, **columns))
    # That an image has no caption is no fault here.
    records = list(read_pairs(path, counter=DropCounter(), **columns))
    captioned = {record.image_path for record in records}
    for found in list_files(str(path), IMAGE_SUFFIXES):
        if path / found.name not in captioned:
            name = printable(found.name)
            records.append(PairRecord(name, path / found.name, [], name))
    return sorted(records, key=lambda record: record.image_path)


def _thumbnail(image):
    from align_keras.reports.page_template import thumbnail_uri

    uri = thumbnail_uri(image, _THUMBNAIL_SIDE)
    return base64.b64decode(uri.partition(",")[2])

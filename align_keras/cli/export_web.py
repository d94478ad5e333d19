"""The format `web` of `align-keras export`: a page that searches pictures."""

import base64
import pathlib

from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say

_TITLE = "Picture search"
# What a page's grid shows at most, on a screen of two pixels a point.
_THUMBNAIL_SIDE = 320
# Decoded pictures held at once; they may be large.
_BATCH = 16


def write_web(align, folder, arguments):
    """Writes a page that searches pictures in the browser, without a server.

    Args:
        align: `ALIGN` with a vocabulary.
        folder: `pathlib.Path`, an existing, empty folder.
        arguments: `argparse.Namespace` with `model` (str, the run folder),
            `pictures` (str, a folder or a table of pictures, or None for the run's
            own index), `image_column`, `caption_column` and `encoding` (str or
            None, of a table), `quantize` (str, of the towers, or None), `licence`
            (str, the terms of the weights, or None), `title` (str or None) and
            `litert_js` (str, a node_modules folder, or None).

    Raises:
        InputError: if there are no pictures, or the options don't fit.
    """
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer
    from align_keras.export.web_page import check_runtime, write_web_page

    quantize = arguments.quantize or "none"
    # Before the minutes that embedding may take.
    if quantize == "int8":
        raise InputError(
            "--quantize must be none, float16, weight-int8 or dynamic-int8 for a page, "
            "received int8, whose scores differ too much from those of the index; "
            "choose dynamic-int8, which is as small."
        )
    if arguments.litert_js is not None:
        check_runtime(arguments.litert_js)
    if arguments.pictures is None:
        index = open_index(align, arguments.model)
    else:
        index = build_index(align, arguments)
    write_web_page(
        folder,
        tokenizer=align.tokenizer,
        image_size=align.image_size,
        image_tower=image_flatbuffer(align, quantize, licence=arguments.licence),
        text_tower=text_flatbuffer(align, quantize, licence=arguments.licence),
        index=index,
        title=arguments.title or _TITLE,
        runtime=arguments.litert_js,
    )
    say(f"{len(index):,} pictures; README.txt in the folder says how to serve it")


def open_index(align, run):
    """Opens the index that a run has left, with thumbnails.

    Args:
        align: `ALIGN`.
        run: str, the run folder.

    Returns:
        `SearchIndex`.

    Raises:
        InputError: if there is none, or it is another model's.
    """
    from align_keras.search import SearchIndex

    folder = pathlib.Path(run, "index")
    if not folder.is_dir():
        raise InputError(
            f"--pictures must name pictures, since {run} has no folder `index` of "
            "them; name a folder of pictures, or a table as train_data.pairs takes it."
        )
    index = SearchIndex.load(folder)
    width = align.image_encoder.output_shape[-1]
    if index.dimension != width:
        raise InputError(
            f"the index {folder} must be the model's, of dimension {width}, received "
            f"{index.dimension}; name its pictures by --pictures."
        )
    return index


def build_index(align, arguments):
    """Embeds a user's pictures.

    Pictures are turned upright and laid on white, as in every corpus and in the page.
    Those that can't be read are left out, and said.

    Args:
        align: `ALIGN`.
        arguments: as `write_web`.

    Returns:
        `SearchIndex` with thumbnails.

    Raises:
        InputError: if there is no such file or folder, or no picture can be read.
    """
    import numpy as np

    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.search import SearchIndex

    counter = DropCounter("pictures")
    records = _records(arguments, counter)
    kept, embeddings, thumbnails = [], [], []
    with progress_bar("embedding", "pictures", len(records)) as bar:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            read = [pair for pair in map(_read(counter), batch) if pair is not None]
            images = [image for _, image in read]
            kept += [record for record, _ in read]
            embeddings.append(align.encode_images([np.asarray(own) for own in images]))
            thumbnails += map(_thumbnail, images)
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


def _records(arguments, counter):
    """Returns the list of `PairRecord`; in a folder, pictures without captions too."""
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.pair_files import (
        IMAGE_SUFFIXES,
        PairRecord,
        read_pairs,
        record_where,
    )

    path = pathlib.Path(arguments.pictures)
    is_folder = path.is_dir()
    columns = (arguments.image_column, arguments.caption_column)
    records = list(
        read_pairs(
            path,
            image_column=columns[0],
            caption_column=columns[1],
            encoding=arguments.encoding or "utf-8",
            # That a picture has no caption is no fault here.
            counter=DropCounter() if is_folder else counter,
        )
    )
    if not is_folder:
        return records
    captioned = {record.image_path for record in records}
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        is_hidden = any(part.startswith(".") for part in parts)
        is_picture = file.suffix.lower() in IMAGE_SUFFIXES and not is_hidden
        if is_picture and file not in captioned:
            name = record_where("/".join(parts))
            records.append(PairRecord(name, file, [], name))
    return sorted(records, key=lambda record: record.image_path)


def _read(counter):
    """Returns a function from a record to it and its picture, or None if unreadable."""
    from align_keras.corpus.image import ImageError, normalize_image

    def read(record):
        try:
            return record, normalize_image(record.image_path)[0]
        except ImageError as error:
            counter.drop(error.reason, record.where, error.detail)

    return read


def _thumbnail(image):
    from align_keras.reports.thumbnail import thumbnail_uri

    uri = thumbnail_uri(image, _THUMBNAIL_SIDE)
    return base64.b64decode(uri.partition(",")[2])

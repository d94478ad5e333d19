"""Page that searches the images of a run, or other images, in the browser."""

import base64
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.export import WEB_QUANTIZATION
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say

if TYPE_CHECKING:
    import PIL.Image

    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.pair_files import PairRecord
    from align_keras.export.web_page import PageImage

# Pixels. Side of the largest image in the grid of a page on a high-resolution screen.
_THUMBNAIL_SIDE = 320
# Number of decoded images in memory at the same time. Each image may be large.
_BATCH = 16
# Number of files whose sizes are printed.
_LARGEST_FILES = 3


def write_web(
    align: Any,
    folder: pathlib.Path,
    model: Any,
    *,
    images: str | None = None,
    quantize: str = WEB_QUANTIZATION,
    license: str | None = None,
    title: str = "Image search",
    litert_js: str | None = None,
    **table: str | None,
) -> None:
    """Writes a page that searches images in the browser.

    Args:
        align: `ALIGN`.
        folder: path of an empty folder.
        model: run folder whose index has the images, if `images` is None.
        images: path of a table or folder of images, or None.
        quantize: one of `align_keras.export.QUANTIZATIONS` except `"int8"`.
        license: terms of the weights.
        title: heading of the page.
        litert_js: node_modules folder with `@litertjs/core`, or None.
        **table: `image_column`, `caption_column` and `encoding` of a table.

    Raises:
        InputError: if an option is invalid, or if there are no images.
    """
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer
    from align_keras.export.web_page import check_litert_js, write_web_page
    from align_keras.search.query.hits import RELEVANCE_WEIGHTS

    # The folder is checked first, since embedding may take minutes.
    if litert_js is not None:
        check_litert_js(litert_js)
    if images is None:
        searched = read_run_images(model)
    else:
        searched = embed_page_images(align, images, **table)
    write_web_page(
        folder,
        tokenizer=align.tokenizer,
        image_size=align.image_size,
        image_tower=image_flatbuffer(align, quantize, license=license),
        text_tower=text_flatbuffer(align, quantize, license=license),
        images=searched.images,
        embeddings=searched.embeddings,
        relevance_weights=RELEVANCE_WEIGHTS,
        title=title,
        runtime=litert_js,
    )
    count = len(searched.images)
    say(f"wrote a page with {count:,} images. README.txt explains how to serve it")
    say(_describe_sizes(folder))


def _describe_sizes(folder: pathlib.Path) -> str:
    """Returns the size of a page and of its largest files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = sorted(((path.stat().st_size / 1e6, path) for path in files), reverse=True)
    largest = [
        f"{path.relative_to(folder).as_posix()} {size:.1f} MB"
        for size, path in sizes[:_LARGEST_FILES]
    ]
    total = sum(size for size, _ in sizes)
    return f"the page has {total:.1f} MB, most of it in {', '.join(largest)}"


@dataclasses.dataclass
class WebImages:
    """Images of a page, and their embeddings, float32 (n, d)."""

    images: "list[PageImage]"
    embeddings: np.ndarray


def read_run_images(run: Any) -> WebImages:
    """Reads the images and the embeddings of the index of a run.

    Raises:
        InputError: if `run` has no index.
    """
    from align_keras.export.web_page import PageImage
    from align_keras.search import Index
    from align_keras.utils.files import read_regular

    folder = pathlib.Path(run, "index") if isinstance(run, str | os.PathLike) else None
    if folder is None or not folder.is_dir():
        reason = f"{run} has no folder `index`" if folder else "a model has no images"
        raise InputError(
            f"images must be set because {reason}. Use a folder of images, or a table "
            "of images and captions."
        )
    index = Index.open(folder)
    images = []
    embeddings = []
    for hit in reversed(index.latest(k=len(index))):
        content = read_regular(hit.file)
        suffix = pathlib.Path(hit.file).suffix
        images.append(PageImage(hit.path, hit.captions, content, suffix))
        embeddings.append(index.embedding(hit.id))
    return WebImages(images, np.array(embeddings))


def embed_page_images(align: Any, images: str, **columns: Any) -> WebImages:
    """Embeds images and creates their thumbnails. Prints the unreadable images."""
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.export.web_page import PageImage
    from align_keras.search.update.embedding_index import image_suffix
    from align_keras.utils.errors import ImageError
    from align_keras.utils.pillow_images import decode_rgb

    counter = DropCounter("images")
    records = _read_records(pathlib.Path(images), columns, counter)
    page_images: list[PageImage] = []
    embeddings = []
    with progress_bar("embedding", "images", len(records)) as bar:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            pixels = []
            for record in batch:
                try:
                    image = decode_rgb(record.image_path)[0]
                except ImageError as error:
                    counter.drop(error.reason, record.position, error.detail)
                    continue
                content = _thumbnail(image)
                suffix = image_suffix(content, len(page_images))
                page_images.append(
                    PageImage(record.id, list(record.captions), content, suffix)
                )
                pixels.append(image)
            embeddings.append(align.encode_images(list(map(np.asarray, pixels))))
            bar.advance(len(batch))
    counter.keep(len(page_images))
    counter.check(max_bad_fraction=1.0)
    for line in counter.lines()[1:]:
        say(line)
    return WebImages(page_images, np.concatenate(embeddings))


def _read_records(
    path: pathlib.Path, columns: dict[str, Any], counter: "DropCounter"
) -> "list[PairRecord]":
    """Reads the pairs of a table or folder. In a folder, images need no captions."""
    from align_keras.corpus.drop_counter import DropCounter, printable
    from align_keras.corpus.pair_files import PairRecord, read_pairs
    from align_keras.corpus.sources.source_files import list_files
    from align_keras.utils.pillow_images import IMAGE_SUFFIXES

    if not path.is_dir():
        return list(read_pairs(path, counter=counter, **columns))
    # Images without captions are valid here, so missing captions are counted
    # separately.
    records = list(read_pairs(path, counter=DropCounter(), **columns))
    captioned = {record.image_path for record in records}
    for file in list_files(str(path), IMAGE_SUFFIXES):
        if path / file.name not in captioned:
            name = printable(file.name)
            records.append(PairRecord(name, path / file.name, [], name))
    return sorted(records, key=lambda record: record.image_path)


def _thumbnail(image: "PIL.Image.Image") -> bytes:
    """Returns the encoded thumbnail of an image."""
    from align_keras.reports.page_template import thumbnail_uri

    uri = thumbnail_uri(image, _THUMBNAIL_SIDE)
    return base64.b64decode(uri.partition(",")[2])

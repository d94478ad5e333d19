"""Hard negatives of pairs: similar images and captions that don't belong together."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.mined_pairs import MinedPair
from align_keras.corpus.pair_files import PairRecord, read_pairs
from align_keras.embedders import Embedder, load_model
from align_keras.search.image_files import decode_square, encode_path, read_file
from align_keras.search.image_index import Index
from align_keras.search.query import MAX_K
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import refuse_url
from align_keras.utils.pillow_images import ImageError
from align_keras.utils.progress import progress_bar

# Number of images or captions that are embedded at once.
_BATCH = 64


def mine_negatives(
    pairs: str | os.PathLike,
    model: str | os.PathLike | Embedder = "align_small_en",
    *,
    k: int = 8,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
    max_bad_fraction: float = 0.1,
) -> list[MinedPair]:
    """Finds the most similar wrong images and captions of each pair.

    The images and the captions are embedded and indexed. An image is wrong for a
    caption if it has neither this caption nor the pixels of an image with this caption.
    The case of captions is ignored, and pixels are compared at the size at which the
    model reads images.

    Args:
        pairs: table or folder of pairs, as in `align_keras.datasets.open_corpus`.
        model: model that embeds the pairs, as in `align_keras.load_model`.
        k: int from 1 to 1,000, number of images and number of captions for each pair.
        image_column: str, column of the images in a table. By default it is detected.
        caption_column: str, column of the captions in a table. By default it is
            detected.
        encoding: str, encoding of the table or of the caption files.
        max_bad_fraction: float in [0, 1], largest fraction of unusable pairs.

    Returns:
        list of `MinedPair`, one for each caption of each image, in the order of the
        table. A pair has fewer than `k` negatives if there are fewer wrong images.

    Raises:
        InputError: if the pairs can't be used, or `k` is out of range.

    Example:

    ```python
    for pair in mine_negatives("pairs.csv", k=3):
        print(pair.caption, pair.images)
    ```
    """
    check_number("`k`", k, 1, 1000, True, "Pass the number of negatives of a pair.")
    refuse_url(pairs, "`pairs`")
    counter = DropCounter()
    records = list(
        read_pairs(
            pairs,
            image_column=image_column,
            caption_column=caption_column,
            encoding=encoding,
            counter=counter,
        )
    )
    opened = load_model(model)
    records, images, pixel_keys = _embed_images(records, opened, counter)
    counter.check(max_bad_fraction)
    if len(set(pixel_keys)) < 2:
        raise InputError(
            "`pairs` must contain at least two different images. Received: "
            f"{len(set(pixel_keys))}. Add pairs."
        )
    captions = [caption for record in records for caption in record.captions]
    owners = [row for row, record in enumerate(records) for _ in record.captions]
    texts = _embed_captions(captions, opened)
    image_index = Index.from_embeddings(images, _names(len(images)))
    caption_index = Index.from_embeddings(texts, _names(len(texts)))
    is_wrong = _wrong_images(records, pixel_keys)
    nearest_captions = []
    for row, embedding in enumerate(images):
        is_negative = functools.partial(is_wrong, row)
        nearest = _nearest(caption_index, embedding, owners, is_negative, k)
        nearest_captions.append(nearest)
    ids = [record.id for record in records]
    mined = []
    for number, (caption, owner) in enumerate(zip(captions, owners, strict=True)):
        nearest_images = _nearest(
            image_index,
            texts[number],
            range(len(records)),
            functools.partial(is_wrong, owner),
            k,
        )
        mined.append(
            MinedPair(
                ids[owner],
                caption,
                tuple(ids[row] for row in nearest_images),
                tuple(ids[row] for row in nearest_captions[owner]),
            )
        )
    return mined


def _embed_images(
    records: list[PairRecord], model: Embedder, counter: DropCounter
) -> tuple[list[PairRecord], np.ndarray, list[bytes]]:
    """Returns the records with readable images, their embeddings and pixel hashes."""
    readable: list[PairRecord] = []
    embeddings: list[np.ndarray] = []
    pixel_keys: list[bytes] = []
    with progress_bar("embedding images", "images", total=len(records)) as bar:
        for batch in _batches(records):
            pixels = []
            for record in batch:
                try:
                    content = read_file(encode_path(record.image_path))[0]
                    image = decode_square(content, model.resize_to).pixels
                except ImageError as error:
                    count = len(record.captions)
                    counter.drop(error.reason, record.position, error.detail, count)
                    continue
                counter.keep(len(record.captions))
                readable.append(record)
                pixels.append(image)
                pixel_keys.append(hashlib.sha256(image.tobytes()).digest())
            if pixels:
                embeddings.append(model.encode_resized(pixels))
            bar.advance(len(batch))
    if not embeddings:
        embeddings.append(np.zeros((0, model.dimension), "float32"))
    return readable, np.concatenate(embeddings), pixel_keys


def _embed_captions(captions: list[str], model: Embedder) -> np.ndarray:
    with progress_bar("embedding captions", "captions", total=len(captions)) as bar:
        embeddings = []
        for batch in _batches(captions):
            embeddings.append(model.encode_texts(batch))
            bar.advance(len(batch))
    return np.concatenate(embeddings)


def _batches(items: list) -> Iterator[list]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _names(count: int) -> list[str]:
    """Returns the names of the rows of an index."""
    return [str(number) for number in range(count)]


def _wrong_images(
    records: list[PairRecord], pixel_keys: list[bytes]
) -> Callable[[int, int], bool]:
    """Returns a function that is True for two rows without equal image or caption."""
    captions = [
        {caption.casefold() for caption in record.captions} for record in records
    ]

    def is_wrong(row: int, other: int) -> bool:
        if pixel_keys[row] == pixel_keys[other]:
            return False
        return captions[row].isdisjoint(captions[other])

    return is_wrong


def _nearest(
    index: Index,
    embedding: np.ndarray,
    rows: Sequence[int],
    is_wrong: Callable[[int], bool],
    k: int,
) -> list[int]:
    """Returns the rows of the `k` most similar wrong images.

    Args:
        index: `Index` whose ids are positions in `rows`.
        embedding: float array (d,).
        rows: row of the image to which each item of the index belongs.
        is_wrong: function of a row.
        k: int ≥ 1.
    """
    size = k + 8
    while True:
        size = min(size, len(rows), MAX_K)
        hits = index.query(embedding, k=size)
        candidates = dict.fromkeys(rows[int(hit.path)] for hit in hits)
        wrong = [row for row in candidates if is_wrong(row)]
        if len(wrong) >= k or size == min(len(rows), MAX_K):
            return wrong[:k]
        size *= 4

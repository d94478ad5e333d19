"""What the vocabulary and the shards are made of: what stays of the pictures."""

import collections

from align_keras.corpus.duplicates.near_duplicates import DUPLICATE
from align_keras.corpus.parquet_pairs import read_rows
from align_keras.corpus.stages.by_picture import TEXTS
from align_keras.corpus.thresholds import primary_language


def kept_pictures(groups, stored, dropped):
    """Yields what stays, in the order of the pieces and of the keys in each.

    Captions of a picture that left because another has equal pixels are the other's.

    Args:
        groups: list of str, the tables of `group_piece`.
        stored: list of str, the tables of `store_pictures`, in the same order.
        dropped: list of `Dropped`, or of such as lists.

    Yields:
        dict with `id`, `image` (bytes, JPEG), `image_key` (of the stored pixels),
        `width` and `height` (of the picture as it came, in pixels), `location`, and
        the lists `captions`, `rules`, `languages`, `page_urls` and `sources`, one
        entry a caption.
    """
    inherited = _inherited(groups, dropped)
    columns = ["image_key", "pixel_key", "fault", "jpeg"]
    for texts, picture in _staying(groups, stored, dropped, columns):
        captions = _merged(texts, inherited)
        lists = {f"{name}s": [text[name] for text in captions] for name in TEXTS}
        yield {
            "id": texts["image_key"],
            "image": picture["jpeg"],
            "image_key": picture["pixel_key"],
            "width": texts["width"],
            "height": texts["height"],
            "location": texts["image"],
            **lists,
        }


def kept_captions(groups, stored, dropped):
    """Yields the captions of what stays, without reading the pictures.

    Args:
        groups: as `kept_pictures`.
        stored: as `kept_pictures`.
        dropped: as `kept_pictures`.

    Yields:
        (caption, language), both str, the latter without its region.
    """
    for texts in kept_texts(groups, stored, dropped):
        for text in texts["captions"]:
            yield text["caption"], primary_language(text["language"])


def kept_texts(groups, stored, dropped):
    """Yields the rows of `groups` that stay, with all captions that are theirs.

    Args:
        groups: as `kept_pictures`.
        stored: as `kept_pictures`.
        dropped: as `kept_pictures`.

    Yields:
        dict, as `by_picture.picture_schema` says.
    """
    inherited = _inherited(groups, dropped)
    for texts, _ in _staying(groups, stored, dropped, ["image_key", "fault"]):
        yield {**texts, "captions": _merged(texts, inherited)}


def _staying(groups, stored, dropped, columns):
    left = {own[0] for own in dropped}
    for group, pictures in zip(groups, stored, strict=True):
        rows = zip(read_rows(group), read_rows(pictures, columns), strict=True)
        for texts, picture in rows:
            if not picture["fault"] and picture["image_key"] not in left:
                yield texts, picture


def _inherited(groups, dropped):
    """Collects the captions that pictures with equal pixels leave behind."""
    heirs = {own[0]: own[2] for own in dropped if own[1] == DUPLICATE}
    inherited = collections.defaultdict(list)
    if heirs:
        for group in groups:
            for texts in read_rows(group, ["image_key", "captions"]):
                if texts["image_key"] in heirs:
                    heir = heirs[texts["image_key"]]
                    inherited[heir].extend(texts["captions"])
    return inherited


def _merged(texts, inherited):
    """Returns a picture's captions and the inherited ones, each once."""
    own = inherited.get(texts["image_key"])
    if own is None:
        return texts["captions"]
    rows = sorted(
        [*texts["captions"], *own], key=lambda text: [text[name] for name in TEXTS]
    )
    return list({row["caption"]: row for row in reversed(rows)}.values())[::-1]

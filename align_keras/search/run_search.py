"""Searches in a run's folder, by texts or by images and words."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from align_keras.embedders import load_model
from align_keras.embedders.locations import find_saved_model
from align_keras.search.index import SearchIndex
from align_keras.search.query import TEXT_WEIGHT, check_words


def search(
    model_dir: str | os.PathLike,
    text: Sequence[str] = (),
    *,
    image: Sequence[str | os.PathLike] = (),
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
    text_weight: float | None = None,
    k: int = 5,
) -> list[dict]:
    """Finds images of a finished run for texts, or for images and words.

    Args:
        model_dir: path of the run's folder, with its export and its index.
        text: sequence of str, searched one after another, or with `image` added to it.
        image: sequence of paths (JPEG, PNG, GIF, BMP or WebP), one search each.
        plus: sequence of str, added to each image or text.
        minus: sequence of str, taken from each image or text.
        text_weight: float > 0, weight of each text beside an image's 1, or None for
            0.5. The paper uses 2 with its large models (Jia et al. 2021, section 7).
        k: int ≥ 1, images to find.

    Returns:
        list of dict, one a search: `text` or `image`, `plus`, `minus`, and `hits` by
        rank: `rank`, `score`, `id`, `captions`, and `thumbnail` where there is one.

    Raises:
        InputError: if the folder has no export or no index, they don't fit together, an
            image can't be read, or a text is blank.
    """
    queries = _queries(text, image, plus, minus, text_weight)
    directory = pathlib.Path(model_dir)
    # Both answer a wrong folder before TensorFlow is imported.
    index = SearchIndex.load(directory / "index")
    model = load_model(find_saved_model(directory / "export"))
    embeddings = [
        model.encode_query(
            query.get("image"),
            [query["text"], *query["plus"]] if "text" in query else query["plus"],
            query["minus"],
            text_weight=text_weight or TEXT_WEIGHT,
        )
        for query in queries
    ]
    rows, scores = index.query(np.concatenate(embeddings), k)
    return [
        {**query, "hits": _hits(index, query_rows, query_scores)}
        for query, query_rows, query_scores in zip(queries, rows, scores, strict=True)
    ]


def _queries(texts, images, plus, minus, text_weight):
    """Returns a dict a query: `image` or `text`, and the words `plus` and `minus`."""
    texts, plus, minus = list(texts), list(plus), list(minus)
    check_words(texts, images, [*plus, *minus], text_weight)
    if images:
        plus = [*texts, *plus]
        return [
            {"image": os.fspath(image), "plus": plus, "minus": minus}
            for image in images
        ]
    return [{"text": text, "plus": plus, "minus": minus} for text in texts]


def _hits(index, rows, scores):
    hits = []
    for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
        entry = dict(index.entries[row])
        if "thumbnail" in entry:
            entry["thumbnail"] = str(index.directory / entry["thumbnail"])
        hits.append({"rank": rank, "score": round(float(score), 6), **entry})
    return hits

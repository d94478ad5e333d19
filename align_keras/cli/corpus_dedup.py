"""The stage of a corpus that finds copies."""

import functools

import numpy as np

from align_keras.config import as_dict
from align_keras.corpus.divided_search import DividedSearch
from align_keras.corpus.near_duplicates import (
    NEAR_EVALUATION,
    Pictures,
    find_duplicates,
)
from align_keras.corpus.parquet_pairs import read_rows
from align_keras.corpus.perceptual_hash import hash_array
from align_keras.corpus.picture_embeddings import write_embeddings
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

_FORM = ["image_key", "pixel_key", "fault", "perceptual_hash"]


def dedup(build):
    """Finds the pictures that are too near to another.

    Args:
        build: `CorpusBuild`.

    Returns:
        `Tables` whose facts name them: `dropped`, a list of `Dropped` as lists.
    """
    config = build.config.duplicates
    pictures = build.pictures()
    sets = {spec: build.pictures(build.extract([spec])) for spec in config.against}
    inputs = [
        pictures.folder.key,
        as_dict(config),
        [own.folder.key for own in sets.values()],
    ]
    if config.mode == "embedding":
        inputs.append(_encoder(config.encoder)[1])

    def run(stage):
        say(f"corpus dedup: {pictures.facts['pictures']:,} pictures")
        encode = _encoder(config.encoder)[0] if config.mode == "embedding" else None
        read = functools.partial(_pictures, stage=stage, mode=config.mode)
        corpus = read(pictures, encode=encode)
        references = [read(own, encode=encode, name=spec) for spec, own in sets.items()]
        divide = functools.partial(
            DividedSearch, folder=stage.path / "search", **build.workers
        )
        dropped = _dropped(corpus, references, config, divide)
        facts = {"tables": 0, "dropped": [list(own) for own in dropped]}
        return facts, ("embeddings", "search")

    return build.stage("dedup", inputs, run)


def _dropped(corpus, references, config, divide):
    """Copies of evaluation images first, then those of each other among the rest."""
    find = functools.partial(find_duplicates, corpus, divide=divide)
    inside, against = config.max_distance, config.max_distance_against
    if config.mode == "embedding":
        inside, against = config.min_cosine, config.min_cosine_against
        find = functools.partial(
            find,
            mode="embedding",
            clusters=config.clusters,
            nearest=config.nearest_clusters,
        )
    if not config.inside_corpus or inside == against:
        return find(references, threshold=against, inside=config.inside_corpus)
    near = find(references, threshold=against, inside=False)
    near = [own for own in near if own.reason == NEAR_EVALUATION]
    return find(gone=near, threshold=inside)


def _pictures(tables, *, stage, mode, encode, name=""):
    """What finding duplicates needs of a table of pictures."""
    keys, pixel_keys, hashes, pixels = [], [], [], []
    for group, stored in zip(tables.paths("group"), tables.paths(), strict=True):
        sizes = read_rows(group, ["width", "height"])
        for row, size in zip(read_rows(stored, _FORM), sizes, strict=True):
            if not row["fault"]:
                keys.append(row["image_key"])
                pixel_keys.append(row["pixel_key"])
                hashes.append(row["perceptual_hash"])
                pixels.append(size["width"] * size["height"])
    if encode is None:
        signatures = hash_array(hashes)
        if mode == "pixels":
            signatures = np.zeros_like(signatures)  # Near to none.
    else:
        path = stage.path / "embeddings" / f"{tables.folder.key}.npy"
        if path.exists():  # Of a run that was killed later.
            signatures = np.load(path, mmap_mode="r" if keys else None)
        else:
            signatures = write_embeddings(path, _jpegs(tables), encode, len(keys))
    return Pictures(keys, signatures, np.array(pixels), pixel_keys, name)


def _jpegs(tables):
    for stored in tables.paths():
        for row in read_rows(stored, ["fault", "jpeg"]):
            if not row["fault"]:
                yield row["jpeg"]


def check_encoder(config):
    """Raises unless the model that embeds pictures, if any does, can be there.

    Args:
        config: `DuplicatesConfig`.

    Raises:
        InputError: if it can't.
    """
    from align_keras.protocols.open_model import check_model

    if config.mode == "embedding":
        try:
            check_model(config.encoder)
        except InputError as error:
            text = str(error).replace("--model", "duplicates.encoder", 1)
            raise InputError(text) from None


@functools.cache
def _encoder(name):
    """Returns the encode function of a model, and what names its weights."""
    from align_keras.protocols.open_model import open_model

    model = open_model(name)
    return model.encode_images, model.image_fingerprint


def counts_of_dropped(facts):
    """Returns how many pictures left for which reason, a dict."""
    counts = {}
    for _, reason, *_ in facts["dropped"]:
        counts[reason] = counts.get(reason, 0) + 1
    return counts

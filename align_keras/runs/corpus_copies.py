"""Stage that drops copies of images, and the images and captions that remain."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.config.corpus_config import DuplicatesConfig
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.duplicates.embeddings import write_embeddings
from align_keras.corpus.duplicates.hashes import hash_array
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_EVALUATION,
    Dropped,
    ImageSet,
    find_duplicates,
)
from align_keras.corpus.image_tables import (
    REFUSED,
    kept_captions,
    kept_images,
    kept_texts,
)
from align_keras.corpus.parquet_tables import read_rows
from align_keras.corpus.sources.source import evaluation_source
from align_keras.embedders.loading import worker_model
from align_keras.embedders.locations import keras_or_auto, locate_model
from align_keras.runs.corpus_stages import (
    CorpusBuild,
    CorpusStage,
    extract_sources,
    gather_images,
)
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.tasks import check_same

# Search method for embeddings, part of the digest of the stages that search.
_SEARCH = "faiss"
_STORED_COLUMNS = ["image_key", "pixel_key", "fault", "perceptual_hash"]


def find_copies(build: CorpusBuild, images: CorpusStage) -> CorpusStage:
    """Finds near copies of images and returns them in the fact `dropped`."""
    config = build.config.duplicates
    references = {
        spec: _gather_evaluation_images(build, spec) for spec in config.against
    }
    keys = [tables.key for tables in references.values()]
    inputs = [images.key, config.model_dump(mode="json"), keys]
    if config.mode == "embedding":
        encoder = locate_model(str(config.encoder)).name
        model = worker_model(encoder, keras_or_auto(encoder))
        inputs += [_SEARCH, model.image_fingerprint]

    def compute(stage: CorpusStage) -> tuple[dict, tuple[str, ...]]:
        say(f"corpus dedup: {images.facts['images']:,} images")
        corpus = _read_image_set(build, images, stage)
        evaluation_sets = [
            _read_image_set(build, tables, stage, spec)
            for spec, tables in references.items()
        ]
        dropped = search_copies(corpus, evaluation_sets, config)
        facts = {"tables": 0, "dropped": [list(image) for image in dropped]}
        return facts, ("embeddings",)

    return build.stage("dedup", inputs, compute)


def _gather_evaluation_images(build: CorpusBuild, spec: str) -> CorpusStage:
    """Writes the images of an evaluation set to tables, as `gather_images`."""
    # Images without usable captions count too.
    raw = extract_sources(build, [evaluation_source(spec)], [])
    images = gather_images(build, raw)
    counter = DropCounter.from_metadata(raw.facts["counts"])
    faults = collections.Counter(images.facts["faults"])
    # A corpus cannot contain the images that `images.refuse` drops.
    del faults[REFUSED]
    unreadable_count = counter.bad.total() + faults.total()
    remote_count = images.facts["remote"] + counter.filtered["not downloaded"]
    description = (
        f"{unreadable_count:,} unreadable images and {remote_count:,} pairs of images "
        "that aren't downloaded"
    )
    if images.facts["images"] <= faults.total():
        raise InputError(
            "duplicates.against must name sources with readable images on this "
            f"machine. Received: {spec} with {description}. Download the images, or "
            "leave the source out."
        )
    if unreadable_count or remote_count:
        say(f"corpus dedup: the corpus isn't compared with {description} of {spec}")
    return images


def search_copies(
    corpus: ImageSet, evaluation_sets: Sequence[ImageSet], config: DuplicatesConfig
) -> list[Dropped]:
    """Finds copies of evaluation images, then copies among the remaining images."""
    options: dict[str, Any] = {"mode": "hash"}
    threshold: float = config.max_distance
    evaluation_threshold: float = config.max_distance_against
    if config.mode == "embedding":
        options = {
            "mode": "embedding",
            "clusters": config.clusters,
            "nearest": config.nearest_clusters,
        }
        threshold = config.min_cosine
        evaluation_threshold = config.min_cosine_against
    is_one_search = not config.inside_corpus or threshold == evaluation_threshold
    copies = find_duplicates(
        corpus,
        evaluation_sets,
        inside_corpus=config.inside_corpus and is_one_search,
        threshold=evaluation_threshold,
        **options,
    )
    if is_one_search:
        return copies
    near_evaluation = [copy for copy in copies if copy.reason == NEAR_EVALUATION]
    return find_duplicates(
        corpus, dropped_before=near_evaluation, threshold=threshold, **options
    )


def _read_image_set(
    build: CorpusBuild, tables: CorpusStage, stage: CorpusStage, name: str = ""
) -> ImageSet:
    """Reads the keys, signatures and sizes of stored images."""
    config = build.config.duplicates
    keys: list[str] = []
    pixel_keys: list[str] = []
    hashes: list[bytes] = []
    pixel_counts: list[int] = []
    for group, stored in zip(tables.tables("group"), tables.tables(), strict=True):
        sizes = read_rows(group, ["width", "height"])
        for row, size in zip(read_rows(stored, _STORED_COLUMNS), sizes, strict=True):
            if not row["fault"]:
                keys.append(row["image_key"])
                pixel_keys.append(row["pixel_key"])
                hashes.append(row["perceptual_hash"])
                pixel_counts.append(size["width"] * size["height"])
    if config.mode == "embedding":
        signatures = _embed_stored_images(build, tables, stage, len(keys))
    else:
        signatures = hash_array(hashes)
        if config.mode == "pixels":
            # Equal signatures match no images, so only pixel keys find copies.
            signatures = np.zeros_like(signatures)
    return ImageSet(keys, signatures, pixel_counts, pixel_keys, name)


def _embed_stored_images(
    build: CorpusBuild, tables: CorpusStage, stage: CorpusStage, count: int
) -> np.ndarray:
    """Embeds stored images table by table. Returns an array (count, d)."""
    name = locate_model(str(build.config.duplicates.encoder)).name
    fingerprint = worker_model(name, keras_or_auto(name)).image_fingerprint
    path = stage.path / "embeddings" / f"{tables.key}.npy"
    tasks = [
        {
            "encoder": name,
            "fingerprint": fingerprint,
            "table": table,
            "to": str(path.with_suffix(f".{number}.npy")),
        }
        for number, table in enumerate(tables.tables())
    ]
    build.run(embed_stored_images, tasks, stage, in_process=True)
    parts = (np.load(task["to"]) for task in tasks)
    rows = itertools.chain.from_iterable(parts)
    return write_embeddings(path, rows, np.stack, count)


def embed_stored_images(task: dict) -> None:
    """Embeds the images of a table, as a task of `run_tasks`."""
    model = worker_model(task["encoder"], keras_or_auto(task["encoder"]))
    check_same(
        task["encoder"],
        model.image_fingerprint,
        task["fingerprint"],
        "duplicates.encoder",
    )
    count = sum(not row["fault"] for row in read_rows(task["table"], ["fault"]))
    rows = read_rows(task["table"], ["fault", "jpeg"])
    jpegs = (row["jpeg"] for row in rows if not row["fault"])
    write_embeddings(task["to"], jpegs, model.encode_images, count)


@dataclasses.dataclass(frozen=True)
class KeptPairs:
    """Images and captions after the removal of copies.

    Attributes:
        images: stage `images`.
        copies: stage `dedup`.
    """

    images: CorpusStage
    copies: CorpusStage

    def read_images(self) -> Iterator[dict]:
        """Yields the kept images, including the captions of their duplicates."""
        return kept_images(
            self.images.tables("group"),
            self.images.tables(),
            self.copies.facts["dropped"],
        )

    def read_captions(self) -> Iterator[tuple[str, str]]:
        """Yields each caption with its primary language."""
        return kept_captions(
            self.images.tables("group"),
            self.images.tables(),
            self.copies.facts["dropped"],
        )

    def read_keys(self) -> set[str]:
        """Returns the keys of the kept images and of images with equal pixels."""
        dropped = self.copies.facts["dropped"]
        rows = kept_texts(self.images.tables("group"), self.images.tables(), dropped)
        keys = {row["image_key"] for row in rows}
        equal_keys = {
            key
            for key, reason, kept_key, *_ in dropped
            if reason == DUPLICATE and kept_key in keys
        }
        return keys | equal_keys

    def check_not_empty(self) -> None:
        """Raises InputError with all drop reasons if no image remains."""
        image_count = self.images.facts["images"]
        reasons = collections.Counter(self.images.facts["faults"])
        reasons.update(reason for _, reason, *_ in self.copies.facts["dropped"])
        if image_count > reasons.total():
            return
        counts = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
        remote_count = self.images.facts["remote"]
        if remote_count:
            counts.append(f"{remote_count:,} pairs of images that aren't downloaded")
        summary = ", ".join(counts) or "no pair passes the filters"
        raise InputError(
            f"The corpus must not be empty. Received: {image_count:,} images, all of "
            f"which were dropped ({summary}). Use other sources, or change the "
            "thresholds of `filter` and `duplicates`."
        )

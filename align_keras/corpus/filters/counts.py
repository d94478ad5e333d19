"""Counts of unigrams, bigrams and shared texts of tables larger than memory:
`count_texts` of each table writes sorted hashes, `merge_counts` adds up a range of
them, `choose_frequent` what the filters look up. DuckDB took as long for a part.
"""

import collections
import hashlib
import json
import os
import pathlib

import numpy as np

from align_keras.corpus.filters.filter_rules import Chosen, PairColumns, Thresholds
from align_keras.corpus.filters.text_hashes import hash_strings, text_features
from align_keras.corpus.filters.texts import normalize_texts
from align_keras.corpus.parquet_tables import read_batches, string_list
from align_keras.utils.files import atomic_write

# N-grams that are counted in memory before they are written to a file.
NGRAMS_PER_SPILL = 4_000_000
# Entries of the files that one task merges in memory.
ENTRIES_PER_PARTITION = 4_000_000
_TOP_TEXTS = 100


def sum_by_key(
    keys: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the counts of equal keys, without `counts` one each; sorts the keys."""
    if counts is None:
        keys, counts = np.unique(keys, return_counts=True)
        return keys, counts.astype(np.uint64)
    # Stable sorting merges the sorted runs of which the keys usually consist.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = _run_starts(keys)
    return keys[starts], np.add.reduceat(counts[order], starts) if len(keys) else counts


def keys_over_limit(
    keys: np.ndarray, values: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted keys with more than `limit` distinct values, and how many."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    sizes = np.diff(_run_starts(keys), append=len(keys))
    # Few have enough entries; only theirs are sorted by value as well.
    large = np.repeat(sizes > limit, sizes)
    keys, values = keys[large], values[order[large]]
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    distinct = np.ones(len(keys), bool)
    distinct[1:] = (keys[1:] != keys[:-1]) | (values[1:] != values[:-1])
    keys, counts = sum_by_key(keys[distinct])
    return keys[counts > limit], counts[counts > limit]


def rank_threshold(histogram: dict[int, int], limit: int) -> tuple[int, int]:
    """Returns (count, quota): of the `limit` most frequent keys are all with a larger
    count and `quota` with just this one; (0, 0) if all are.
    """
    for count in sorted(histogram, reverse=True):
        if histogram[count] > limit:
            return count, limit
        limit -= histogram[count]
    return 0, 0


def count_histogram(counts: np.ndarray) -> dict[int, int]:
    """Returns how many keys have each count."""
    values, numbers = np.unique(counts, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def select_frequent(
    keys: np.ndarray, counts: np.ndarray, count: int, quota: int
) -> np.ndarray:
    """Selects the sorted keys that `rank_threshold` admits."""
    admitted = counts > count
    admitted[np.flatnonzero(counts == count)[:quota]] = True
    return keys[admitted]


def _run_starts(keys: np.ndarray) -> np.ndarray:
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(starts)


def count_in_memory(batches: list[PairColumns], thresholds: Thresholds) -> Chosen:
    """Counts in memory what the three tasks count on disk."""
    features = [batch.features for batch in batches]
    none = np.zeros(0, np.uint64)
    images = np.concatenate([none, *(batch.image_hashes for batch in batches)])
    texts = np.concatenate([none, *(part.text_hashes for part in features)])
    ngrams = [array for part in features for array in (part.unigrams, part.bigrams)]
    keys, counts = sum_by_key(np.concatenate([none, *ngrams]))
    count, quota = rank_threshold(count_histogram(counts), thresholds.frequent_ngrams)
    return Chosen(
        # All are frequent, and nothing needs to be looked up.
        select_frequent(keys, counts, count, quota) if count else None,
        keys_over_limit(texts, images, thresholds.max_images_per_text)[0],
        keys_over_limit(images, texts, thresholds.max_texts_per_image)[0],
        top_texts={},
    )


def count_texts(path: str | os.PathLike, folder: str | os.PathLike) -> int:
    """Writes the hashes of a table's texts as spills; returns how many texts."""
    spills = pathlib.Path(folder, "spills")
    # A repeated task must find its own files, also where all has been moved.
    relative_path = os.path.relpath(path, folder)
    digest = hashlib.blake2b(os.fsencode(relative_path), digest_size=8).hexdigest()
    total = 0
    ngrams: list[np.ndarray] = []
    pairs: list[np.ndarray] = []

    def write() -> None:
        name = f"{digest}-{total:012d}.npy"
        keys, counts = sum_by_key(np.concatenate(ngrams))
        _save(spills / f"ngrams-{name}", keys, counts)
        texts, images = np.concatenate(pairs, axis=1)
        for kind, keys, values in (("texts", texts, images), ("images", images, texts)):
            order = np.argsort(keys)
            _save(spills / f"{kind}-{name}", keys[order], values[order])
        ngrams.clear()
        pairs.clear()

    for batch in read_batches(path, ["caption", "image_key"]):
        captions, images = (
            string_list(batch[name]) for name in ("caption", "image_key")
        )
        features = text_features(normalize_texts(captions))
        ngrams += [features.unigrams, features.bigrams]
        image_hashes = hash_strings(images)
        pairs.append(np.stack([features.text_hashes, image_hashes]))
        total += len(image_hashes)
        if sum(map(len, ngrams)) >= NGRAMS_PER_SPILL:
            write()
    if pairs:
        write()
    return total


def count_partitions(folder: str | os.PathLike) -> int:
    """Returns the number of partitions of the spills, of four million entries each."""
    sizes: collections.Counter[str] = collections.Counter()
    for path in pathlib.Path(folder, "spills").glob("*.npy"):
        sizes[path.name.split("-")[0]] += path.stat().st_size // 16
    return 1 + max(sizes.values(), default=0) // ENTRIES_PER_PARTITION


def merge_counts(
    partition: int, partitions: int, folder: str | os.PathLike, thresholds: Thresholds
) -> None:
    """Adds up one range of the hashes over all spills, after all `count_texts`."""
    merged = pathlib.Path(folder, "merged", str(partitions))
    for kind, limit in (
        ("texts", thresholds.max_images_per_text),
        ("images", thresholds.max_texts_per_image),
    ):
        keys, values = _read_range(folder, kind, partition, partitions)
        crowded = keys_over_limit(keys, values, limit)
        _save(merged / f"{kind}-{partition}.npy", *crowded)
    keys, counts = sum_by_key(*_read_range(folder, "ngrams", partition, partitions))
    _save(merged / f"ngrams-{partition}.npy", keys, counts)
    with atomic_write(merged / f"histogram-{partition}.json") as file:
        json.dump(list(count_histogram(counts).items()), file)


def choose_frequent(
    partitions: int, folder: str | os.PathLike, thresholds: Thresholds
) -> dict:
    """Writes the frequent n-grams and what is shared too often; returns a summary."""
    merged = pathlib.Path(folder, "merged", str(partitions))
    chosen = pathlib.Path(folder, "chosen")
    histogram: collections.Counter[int] = collections.Counter()
    for partition in range(partitions):
        counts_of = (merged / f"histogram-{partition}.json").read_text()
        histogram.update(dict(json.loads(counts_of)))
    count, quota = rank_threshold(histogram, thresholds.frequent_ngrams)
    distinct = histogram.total()
    frequent = min(distinct, thresholds.frequent_ngrams)
    if frequent < distinct:
        with atomic_write(chosen / "ngrams.npy", "wb") as file:
            header = {"descr": "<u8", "fortran_order": False, "shape": (frequent,)}
            np.lib.format.write_array_header_1_0(file, header)
            for partition in range(partitions):
                keys, counts = np.load(merged / f"ngrams-{partition}.npy")
                part = select_frequent(keys, counts, count, quota)
                file.write(part.astype("<u8").tobytes())
                quota = max(0, quota - int((counts == count).sum()))
    else:  # Nothing to look up.
        (chosen / "ngrams.npy").unlink(missing_ok=True)
    crowded = {}
    for kind in ("texts", "images"):
        paths = [merged / f"{kind}-{partition}.npy" for partition in range(partitions)]
        crowded[kind] = np.concatenate([np.load(path) for path in paths], axis=1)
        with atomic_write(chosen / f"{kind}.npy", "wb") as file:
            np.save(file, crowded[kind][0])
    keys, counts = crowded["texts"]
    top = np.lexsort((keys, -counts.astype(np.int64)))[:_TOP_TEXTS]
    summary = {
        "distinct_ngrams": distinct,
        "frequent_ngrams": frequent,
        "ngram_count": count,
        "shared_texts": len(keys),
        "crowded_images": crowded["images"].shape[1],
        "top_texts": [[int(keys[row]), int(counts[row])] for row in top],
    }
    with atomic_write(chosen / "summary.json") as file:
        json.dump(summary, file)
    return summary


def _read_range(
    folder: str | os.PathLike, kind: str, partition: int, partitions: int
) -> np.ndarray:
    """Returns the keys and values of all spills in one of equal ranges of keys."""
    low, high = (edge * 2**64 // partitions for edge in (partition, partition + 1))
    entries_of_spills = [np.zeros((2, 0), np.uint64)]
    for path in sorted(pathlib.Path(folder, "spills").glob(f"{kind}-*.npy")):
        # Rows lie one after the other: only the range's pages are read.
        entries = np.load(path, mmap_mode="r")
        first = np.searchsorted(entries[0], np.uint64(low))
        past = np.searchsorted(entries[0], np.uint64(high - 1), side="right")
        entries_of_spills.append(np.array(entries[:, first:past]))
    return np.concatenate(entries_of_spills, axis=1)


def _save(path: pathlib.Path, keys: np.ndarray, values: np.ndarray) -> None:
    with atomic_write(path, "wb") as file:
        np.save(file, np.stack([keys, values]))

"""Counts of unigrams, bigrams and shared captions in tables larger than memory.

`count_texts` writes the sorted hashes of one table and their counts to files (spills).
`merge_counts` adds up the counts of one range of hashes over all spills.
`choose_frequent` writes the arrays in which the filters look up hashes. An
implementation with DuckDB took as long for only a part of this work.
"""

import collections
import hashlib
import json
import os
import pathlib

import numpy as np

from align_keras.corpus.filters.filter_rules import (
    CorpusCounts,
    PairColumns,
    Thresholds,
)
from align_keras.corpus.filters.text_hashes import hash_strings, text_features
from align_keras.corpus.filters.texts import normalize_texts
from align_keras.corpus.parquet_tables import read_batches, string_list
from align_keras.utils.files import atomic_write

# Number of n-grams that are counted in memory before they are written to a file.
NGRAMS_PER_SPILL = 4_000_000
# Number of spill entries that one task merges in memory.
ENTRIES_PER_PARTITION = 4_000_000
# Number of captions in the report of the captions that most images share.
_TOP_TEXTS = 100


def sum_by_key(
    keys: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the counts of equal keys.

    Args:
        keys: uint64 array (n,), in any order.
        counts: uint64 array (n,). By default, each key counts once.

    Returns:
        `(keys, counts)`: the distinct keys in ascending order and the sum of each.
    """
    if counts is None:
        keys, counts = np.unique(keys, return_counts=True)
        return keys, counts.astype(np.uint64)
    # The keys usually consist of sorted runs, which a stable sort merges quickly.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = _run_starts(keys)
    return keys[starts], np.add.reduceat(counts[order], starts) if len(keys) else counts


def keys_over_limit(
    keys: np.ndarray, values: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the keys that have more than `limit` distinct values.

    Args:
        keys: uint64 array (n,), in any order.
        values: uint64 array (n,), one value for each key.
        limit: the largest number of distinct values that is allowed.

    Returns:
        `(keys, counts)`: the sorted keys above the limit and their numbers of distinct
        values.
    """
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    sizes = np.diff(_run_starts(keys), append=len(keys))
    # Few keys have more than `limit` entries. Only these entries are sorted by value.
    large = np.repeat(sizes > limit, sizes)
    keys, values = keys[large], values[order[large]]
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    distinct = np.ones(len(keys), bool)
    distinct[1:] = (keys[1:] != keys[:-1]) | (values[1:] != values[:-1])
    keys, counts = sum_by_key(keys[distinct])
    return keys[counts > limit], counts[counts > limit]


def rank_threshold(histogram: dict[int, int], limit: int) -> tuple[int, int]:
    """Finds the count that separates the `limit` most frequent keys from the rest.

    Args:
        histogram: dict from a count to the number of keys that have it.
        limit: number of keys to select.

    Returns:
        `(count, quota)`: all keys with a larger count are selected, and `quota` of the
        keys with exactly this count. `(0, 0)` if all keys are selected.
    """
    for count in sorted(histogram, reverse=True):
        if histogram[count] > limit:
            return count, limit
        limit -= histogram[count]
    return 0, 0


def count_histogram(counts: np.ndarray) -> dict[int, int]:
    """Returns a dict from each count to the number of keys that have it."""
    values, numbers = np.unique(counts, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def select_frequent(
    keys: np.ndarray, counts: np.ndarray, count: int, quota: int
) -> np.ndarray:
    """Selects the most frequent keys by the result of `rank_threshold`.

    The first `quota` keys are taken of those that have exactly `count`.

    Args:
        keys: uint64 array (n,), sorted.
        counts: uint64 array (n,), the count of each key.
        count: the count that separates frequent keys from rare keys.
        quota: number of keys to select that have exactly `count`.

    Returns:
        uint64 array of the selected keys, sorted.
    """
    is_selected = counts > count
    is_selected[np.flatnonzero(counts == count)[:quota]] = True
    return keys[is_selected]


def _run_starts(keys: np.ndarray) -> np.ndarray:
    """Returns the index at which each run of equal keys begins."""
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(starts)


def count_in_memory(batches: list[PairColumns], thresholds: Thresholds) -> CorpusCounts:
    """Counts n-grams and shared captions in memory.

    The result is the same as with `count_texts`, `merge_counts` and `choose_frequent`
    for tables on disk.
    """
    features = [batch.features for batch in batches]
    # Lets `np.concatenate` accept an empty list of batches.
    empty = np.zeros(0, np.uint64)
    images = np.concatenate([empty, *(batch.image_hashes for batch in batches)])
    texts = np.concatenate([empty, *(part.text_hashes for part in features)])
    ngrams = [array for part in features for array in (part.unigrams, part.bigrams)]
    keys, counts = sum_by_key(np.concatenate([empty, *ngrams]))
    count, quota = rank_threshold(count_histogram(counts), thresholds.frequent_ngrams)
    return CorpusCounts(
        # With a count of 0, all n-grams are frequent.
        select_frequent(keys, counts, count, quota) if count else None,
        keys_over_limit(texts, images, thresholds.max_images_per_text)[0],
        keys_over_limit(images, texts, thresholds.max_texts_per_image)[0],
        top_texts={},
    )


def count_texts(path: str | os.PathLike, folder: str | os.PathLike) -> int:
    """Writes the sorted hashes of a table's captions and images to spill files.

    Args:
        path: table of pairs.
        folder: folder of the counts. The spills are written to `folder/spills`.

    Returns:
        Number of captions in the table.
    """
    spills = pathlib.Path(folder, "spills")
    # The names depend on the relative path of the table. A repeated task therefore
    # overwrites its files, even if the table and the folder were moved together.
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
    """Returns the number of hash ranges into which the spills are divided.

    Each range has about `ENTRIES_PER_PARTITION` entries.
    """
    sizes: collections.Counter[str] = collections.Counter()
    for path in pathlib.Path(folder, "spills").glob("*.npy"):
        sizes[path.name.split("-")[0]] += path.stat().st_size // 16
    return 1 + max(sizes.values(), default=0) // ENTRIES_PER_PARTITION


def merge_counts(
    partition: int, partitions: int, folder: str | os.PathLike, thresholds: Thresholds
) -> None:
    """Adds up the counts of one range of hashes over the spills of all tables.

    `count_texts` must have run for each table.

    Args:
        partition: index of the range of hashes.
        partitions: number of ranges, from `count_partitions`.
        folder: folder of the counts. Results are written to `folder/merged`.
        thresholds: `Thresholds`, for the limits on images per caption and captions per
            image.
    """
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
    """Selects the frequent n-grams and the hashes over a limit from all ranges.

    The results are the frequent n-grams, the captions that too many images share, and
    the images that have too many captions. `merge_counts` must have run for each
    partition.

    Args:
        partitions: number of ranges of hashes.
        folder: folder of the counts. Results are written to `folder/chosen`.
        thresholds: `Thresholds`, for the number of frequent n-grams.

    Returns:
        The summary that is also written to `summary.json`.
    """
    merged = pathlib.Path(folder, "merged", str(partitions))
    chosen = pathlib.Path(folder, "chosen")
    histogram: collections.Counter[int] = collections.Counter()
    for partition in range(partitions):
        content = (merged / f"histogram-{partition}.json").read_text()
        histogram.update(dict(json.loads(content)))
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
    else:
        # All n-grams are frequent. An earlier run with a lower threshold may have
        # written a file.
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
    """Returns the keys and values of all spills that are in one range of keys."""
    # The ranges divide the 64-bit integers evenly. The array has shape (2, entries).
    low, high = (edge * 2**64 // partitions for edge in (partition, partition + 1))
    entries_of_spills = [np.zeros((2, 0), np.uint64)]
    for path in sorted(pathlib.Path(folder, "spills").glob(f"{kind}-*.npy")):
        # The keys are contiguous and sorted, so only the pages of the range are read.
        entries = np.load(path, mmap_mode="r")
        first = np.searchsorted(entries[0], np.uint64(low))
        past = np.searchsorted(entries[0], np.uint64(high - 1), side="right")
        entries_of_spills.append(np.array(entries[:, first:past]))
    return np.concatenate(entries_of_spills, axis=1)


def _save(path: pathlib.Path, keys: np.ndarray, values: np.ndarray) -> None:
    with atomic_write(path, "wb") as file:
        np.save(file, np.stack([keys, values]))

"""The paper's filters for tables larger than memory.

The work is divided into four kinds of tasks, which run in this order: count, merge,
choose, filter.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from align_keras.corpus.filters.counts import (
    choose_frequent,
    count_texts,
    merge_counts,
)
from align_keras.corpus.filters.filter_rules import (
    REASONS,
    CorpusCounts,
    PairColumns,
    Thresholds,
    count_reasons,
    find_reasons,
)
from align_keras.corpus.filters.text_hashes import hash_pairs, is_member
from align_keras.corpus.filters.texts import find_personal_data
from align_keras.corpus.parquet_tables import (
    ROWS_PER_GROUP,
    arrow,
    open_parquet,
    read_batches,
    string_list,
    table_writer,
)

# Number of sample pairs in the result for each reason.
SAMPLES = 20


def filter_table(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    folder: str | os.PathLike,
    thresholds: Thresholds,
) -> dict:
    """Writes the pairs of a table that pass all filters.

    `choose_frequent` must have run.

    Args:
        source: table of pairs.
        destination: file for the kept pairs.
        folder: folder of the counts.
        thresholds: limits of the filters.

    Returns:
        dict with values that can be stored as JSON and passed to `merge_results`:

        - `counts`: number of pairs by reason.
        - `samples`: at most 20 pairs for each reason, those with the smallest hashes.
        - `shared_texts`: dict from hash to `[caption, number of images]`, for the
          dropped captions among the 100 that most images share.
    """
    counts = CorpusCounts.load(folder)
    result = merge_results([])
    with open_parquet(os.fspath(source)) as table:
        schema = table.schema_arrow
    with table_writer(destination, schema, ROWS_PER_GROUP, batches=True) as append:
        for batch in read_batches(source):
            pairs = _pair_columns(batch, thresholds)
            reason_numbers = find_reasons(pairs, counts, thresholds)
            append([_select_kept_rows(batch, pairs, reason_numbers == 0)])
            part = {
                "counts": count_reasons(reason_numbers),
                "samples": _samples(batch, pairs, reason_numbers, thresholds),
                "shared_texts": _shared_texts(pairs, reason_numbers, counts),
            }
            result = merge_results([result, part])
    return result


def merge_results(results: Iterable[dict]) -> dict:
    """Merges results of `filter_table`.

    The merged result doesn't depend on the order or the grouping of the results.
    """
    keys = ("kept", *REASONS)
    merged: dict[str, dict] = {
        "counts": dict.fromkeys(keys, 0),
        "samples": {key: {} for key in keys},
        "shared_texts": {},
    }
    for result in results:
        for reason, count in result["counts"].items():
            merged["counts"][reason] += count
        for reason, samples in result["samples"].items():
            merged_samples = merged["samples"][reason]
            for key, sample in samples.items():
                _store_smallest(merged_samples, key, sample, _sort_key)
            smallest = sorted(merged_samples)[:SAMPLES]
            merged["samples"][reason] = {key: merged_samples[key] for key in smallest}
        for key, text in result["shared_texts"].items():
            _store_smallest(merged["shared_texts"], key, text)
    return merged


def _store_smallest(
    values: dict[str, Any],
    key: str,
    value: Any,
    order: Callable[[Any], Any] | None = None,
) -> None:
    """Stores the smallest of the values that have the same key."""
    # Repeated pairs have equal hashes, and so have captions that differ only in case.
    values[key] = min(values.get(key, value), value, key=order)


def _select_kept_rows(batch: Any, pairs: PairColumns, is_kept: np.ndarray) -> Any:
    """Selects the kept rows and sets their normalized captions and languages."""
    pyarrow = arrow()
    for name, texts in (("caption", pairs.captions), ("language", pairs.languages)):
        index = batch.schema.get_field_index(name)
        field = batch.schema.field(index)
        batch = batch.set_column(index, field, pyarrow.array(texts, field.type))
    return batch.filter(pyarrow.array(is_kept))


def _sort_key(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns a value by which samples with equal hashes are ordered."""
    return sorted((name, str(value)) for name, value in sample.items())


def _pair_columns(batch: Any, thresholds: Thresholds) -> PairColumns:
    widths = batch.column("width").fill_null(0).to_numpy()
    heights = batch.column("height").fill_null(0).to_numpy()
    is_resized = None
    if "is_resized" in batch.schema.names:
        column = batch.column("is_resized").fill_null(False)
        is_resized = column.to_numpy(zero_copy_only=False)
    return PairColumns.from_raw_columns(
        widths,
        heights,
        image_keys=string_list(batch.column("image_key")),
        captions=string_list(batch.column("caption")),
        languages=string_list(batch.column("language")),
        is_resized=is_resized,
        detect_language=thresholds.detect_language,
    )


def _samples(
    batch: Any, pairs: PairColumns, reason_numbers: np.ndarray, thresholds: Thresholds
) -> dict[str, dict[str, Any]]:
    """Returns the pairs with the smallest hashes for each reason, by their hash."""
    hashes = hash_pairs(pairs.features.text_hashes, pairs.image_hashes)
    samples: dict[str, dict[str, Any]] = {}
    for number, reason in enumerate(("kept", *REASONS)):
        rows = np.flatnonzero(reason_numbers == number)
        rows = rows[is_member(np.unique(hashes[rows])[:SAMPLES], hashes[rows])]
        samples[reason] = {}
        for row, key in zip(rows.tolist(), hashes[rows].tolist(), strict=True):
            sample = _sample(batch, pairs, row, thresholds)
            _store_smallest(samples[reason], f"{key:016x}", sample, _sort_key)
    return samples


def _sample(
    batch: Any, pairs: PairColumns, row: int, thresholds: Thresholds
) -> dict[str, Any]:
    """Returns a row as a dict."""
    # If the caption contains personal data, the kind of the data replaces the caption.
    sample = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    sample["language"] = pairs.languages[row]
    caption = pairs.captions[row]
    kind = find_personal_data(caption) if thresholds.drop_personal_data else None
    return sample | {"caption": f"[{kind}]" if kind else caption}


def _shared_texts(
    pairs: PairColumns, reason_numbers: np.ndarray, counts: CorpusCounts
) -> dict[str, list]:
    """Returns the dropped captions that most images share."""
    # The result is a dict from the hash of a caption to `[caption, number of images]`.
    rows = np.flatnonzero(reason_numbers == 1 + REASONS.index("images per text"))
    hashes = pairs.features.text_hashes[rows]
    shared: dict[str, list] = {}
    for row, key in zip(rows.tolist(), hashes.tolist(), strict=True):
        if key in counts.top_texts:
            text = [pairs.captions[row], counts.top_texts[key]]
            _store_smallest(shared, f"{key:016x}", text)
    return shared


def count_task(task: dict) -> int:
    """Writes the hashes of the captions in `table` to `folder`."""
    return count_texts(task["table"], task["folder"])


def merge_task(task: dict) -> None:
    """Adds up the counts of one range of hashes, number `partition` of `partitions`."""
    merge_counts(
        task["partition"], task["partitions"], task["folder"], _thresholds(task)
    )


def choose_task(task: dict) -> dict:
    """Writes the frequent n-grams, and the captions and images over a limit."""
    return choose_frequent(task["partitions"], task["folder"], _thresholds(task))


def filter_task(task: dict) -> dict:
    """Filters `table` and writes the kept pairs to the file `kept`."""
    return filter_table(task["table"], task["kept"], task["folder"], _thresholds(task))


def _thresholds(task: dict[str, Any]) -> Thresholds:
    return Thresholds(**task["thresholds"])

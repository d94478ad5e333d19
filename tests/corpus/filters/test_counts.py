"""Compares the counts of tables with Python's counters."""

import collections
import json
import random

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from align_keras.corpus import Thresholds
from align_keras.corpus.filters import counts as module
from align_keras.corpus.filters.counts import (
    choose_frequent,
    count_histogram,
    count_partitions,
    count_texts,
    keys_over_limit,
    merge_counts,
    rank_threshold,
    select_frequent,
    sum_by_key,
)
from align_keras.corpus.filters.text_hashes import is_member
from tests.helpers.filter_reference import hash_ngram, hash_text, ngrams_of

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


def write(path, rows):
    captions, keys = zip(*rows, strict=True)
    table = {"caption": pa.array(captions, pa.string()), "image_key": list(keys)}
    pa.parquet.write_table(pa.table(table), path, row_group_size=40)


def random_rows(count, seed=0):
    """Returns random (caption, image key) pairs, in which low words are frequent."""
    generator = random.Random(seed)
    words = [f"w{rank}" for rank in range(30) for _ in range(30 // (rank + 1))]
    rows = []
    for _ in range(count):
        caption = " ".join(generator.choices(words, k=generator.randint(0, 4)))
        rows.append((caption, f"i{generator.randint(0, 40)}"))
    return rows


def run_count_tasks(folder, paths, partitions, thresholds):
    for path in paths:
        count_texts(path, folder)
    for partition in range(partitions):
        merge_counts(partition, partitions, folder, thresholds)
    return choose_frequent(partitions, folder, thresholds)


def load_chosen(folder):
    names = ("ngrams", "texts", "images")
    return [np.load(folder / "chosen" / f"{name}.npy").tolist() for name in names]


THRESHOLDS = Thresholds(
    frequent_ngrams=50, max_images_per_text=3, max_texts_per_image=10
)


def test_counts_equal_python_counters(tmp_path):
    rows = random_rows(600)
    write(tmp_path / "a.parquet", rows)
    summary = run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 5, THRESHOLDS)
    counts = collections.Counter(ngram for text, _ in rows for ngram in ngrams_of(text))
    ranked = sorted(counts, key=lambda ngram: (-counts[ngram], hash_ngram(ngram)))
    images, texts = collections.defaultdict(set), collections.defaultdict(set)
    for text, image in rows:
        images[text].add(image)
        texts[image].add(text)
    shared = {hash_text(text): len(images[text]) for text in images}
    shared = {text_hash: number for text_hash, number in shared.items() if number > 3}
    crowded = sorted(hash_text(image) for image in texts if len(texts[image]) > 10)
    assert load_chosen(tmp_path) == (
        [sorted(map(hash_ngram, ranked[:50])), sorted(shared), crowded]
    )
    top = sorted(shared.items(), key=lambda item: (-item[1], item[0]))[:100]
    assert summary == {
        "distinct_ngrams": len(counts),
        "frequent_ngrams": 50,
        "ngram_count": counts[ranked[49]],
        "shared_texts": len(shared),
        "crowded_images": len(crowded),
        "top_texts": [list(item) for item in top],
    }
    assert 10 < len(crowded) and 3 < len(shared)
    assert json.loads((tmp_path / "chosen" / "summary.json").read_text()) == summary


def test_order_tables_partitions_and_spills_do_not_change_the_counts(
    tmp_path, monkeypatch
):
    rows = random_rows(600)
    write(tmp_path / "one.parquet", rows)
    run_count_tasks(tmp_path / "one", [tmp_path / "one.parquet"], 1, THRESHOLDS)
    random.Random(1).shuffle(rows)
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        write(path, rows[number::3])
    monkeypatch.setattr(module, "NGRAMS_PER_SPILL", 100)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 30)
    run_count_tasks(tmp_path / "three", paths[::-1], 7, THRESHOLDS)
    assert len(list((tmp_path / "three/spills").glob("ngrams-*"))) > 6
    assert load_chosen(tmp_path / "three") == load_chosen(tmp_path / "one")


def test_a_repeated_task_counts_once(tmp_path):
    write(tmp_path / "a.parquet", random_rows(100))
    first = run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS)
    assert run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS) == first
    assert count_texts(tmp_path / "a.parquet", tmp_path) == 100


def test_no_file_is_written_if_all_ngrams_are_frequent(tmp_path):
    write(tmp_path / "a.parquet", random_rows(100))
    run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS)
    assert (tmp_path / "chosen/ngrams.npy").exists()
    summary = run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 2, Thresholds())
    assert summary["frequent_ngrams"] == summary["distinct_ngrams"] > 50
    assert summary["ngram_count"] == 0
    assert not (tmp_path / "chosen/ngrams.npy").exists()


def test_the_number_of_partitions_grows_with_the_entries(tmp_path, monkeypatch):
    assert count_partitions(tmp_path) == 1
    write(tmp_path / "a.parquet", random_rows(600))
    count_texts(tmp_path / "a.parquet", tmp_path)
    assert count_partitions(tmp_path) == 1
    monkeypatch.setattr(module, "ENTRIES_PER_PARTITION", 100)
    # The spills hold 600 pairs and the headers of the files.
    assert 6 <= count_partitions(tmp_path) <= 8


@pytest.mark.parametrize("partitions", [1, 3])
def test_partitions_have_no_gap_and_no_overlap(tmp_path, partitions):
    bounds = [number * 2**64 // partitions for number in range(1, partitions)]
    keys = sorted({0, 2**64 - 1, *bounds, *(bound - 1 for bound in bounds)})
    (tmp_path / "spills").mkdir()
    spill = np.array([keys, [1] * len(keys)], np.uint64)
    for kind in ("ngrams", "texts", "images"):
        np.save(tmp_path / "spills" / f"{kind}-a-0.npy", spill)
    for partition in range(partitions):
        merge_counts(partition, partitions, tmp_path, THRESHOLDS)
    parts = [
        np.load(tmp_path / f"merged/{partitions}/ngrams-{partition}.npy")[0].tolist()
        for partition in range(partitions)
    ]
    assert sum(parts, []) == keys and all(len(part) <= 2 for part in parts)


def test_a_failed_write_leaves_no_partial_file(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", random_rows(10))

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", raise_disk_full)
    with pytest.raises(OSError, match="No space"):
        count_texts(tmp_path / "a.parquet", tmp_path)
    assert list((tmp_path / "spills").iterdir()) == []


def test_an_empty_table_has_no_ngrams(tmp_path):
    schema = pa.schema([("caption", pa.string()), ("image_key", pa.string())])
    pa.parquet.write_table(schema.empty_table(), tmp_path / "a.parquet")
    summary = run_count_tasks(tmp_path, [tmp_path / "a.parquet"], 1, THRESHOLDS)
    assert summary["distinct_ngrams"] == summary["shared_texts"] == 0


keys = st.integers(0, 5).map(lambda number: number * 2**61)
entries = st.lists(st.tuples(keys, st.integers(0, 4)), max_size=30)


def columns(rows):
    return np.array(rows, np.uint64).reshape(-1, 2).T


@hypothesis.given(entries)
def test_counts_of_equal_keys_are_summed(rows):
    expected = collections.Counter()
    for key, count in rows:
        expected[key] += count
    sums = sum_by_key(*columns(rows))
    assert list(zip(*(array.tolist() for array in sums), strict=True)) == (
        sorted(expected.items())
    )
    ones = collections.Counter(key for key, _ in rows)
    sums = sum_by_key(columns(rows)[0])
    assert list(zip(*(array.tolist() for array in sums), strict=True)) == (
        sorted(ones.items())
    )


@hypothesis.given(entries, st.integers(1, 4))
def test_keys_over_the_limit_have_too_many_distinct_values(rows, limit):
    values = collections.defaultdict(set)
    for key, value in rows:
        values[key].add(value)
    keys_and_counts = keys_over_limit(*columns(rows), limit)
    expected = {key: len(distinct) for key, distinct in values.items()}
    assert list(zip(*(array.tolist() for array in keys_and_counts), strict=True)) == (
        sorted((key, count) for key, count in expected.items() if count > limit)
    )


@hypothesis.given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 14))
def test_the_most_frequent_keys_are_selected(counts, limit):
    distinct_keys = np.arange(len(counts), dtype=np.uint64) * 7
    counts = np.array(counts, np.uint64)
    ranked = sorted(zip(-counts.astype(int), distinct_keys.tolist(), strict=True))
    expected = sorted(key for _, key in ranked[:limit])
    threshold = rank_threshold(count_histogram(counts), limit)
    assert select_frequent(distinct_keys, counts, *threshold).tolist() == expected
    assert (threshold == (0, 0)) == (len(counts) <= limit)


@hypothesis.given(st.sets(keys), st.lists(keys))
def test_membership_equals_the_membership_in_a_set(members, values):
    is_match = is_member(
        np.array(sorted(members), np.uint64), np.array(values, np.uint64)
    )
    assert is_match.tolist() == [value in members for value in values]

"""Counting tables, against Python's counters."""

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


def rows_of(count, seed=0):
    own = random.Random(seed)
    words = [f"w{rank}" for rank in range(30) for _ in range(30 // (rank + 1))]
    return [
        (" ".join(own.choices(words, k=own.randint(0, 4))), f"i{own.randint(0, 40)}")
        for _ in range(count)
    ]


def count(folder, paths, partitions, thresholds):
    for path in paths:
        count_texts(path, folder)
    for partition in range(partitions):
        merge_counts(partition, partitions, folder, thresholds)
    return choose_frequent(partitions, folder, thresholds)


def chosen(folder):
    names = ("ngrams", "texts", "images")
    return [np.load(folder / "chosen" / f"{name}.npy").tolist() for name in names]


THRESHOLDS = Thresholds(
    frequent_ngrams=50, max_images_per_text=3, max_texts_per_image=10
)


def test_as_counters(tmp_path):
    rows = rows_of(600)
    write(tmp_path / "a.parquet", rows)
    summary = count(tmp_path, [tmp_path / "a.parquet"], 5, THRESHOLDS)
    counts = collections.Counter(own for text, _ in rows for own in ngrams_of(text))
    ranked = sorted(counts, key=lambda own: (-counts[own], hash_ngram(own)))
    images, texts = collections.defaultdict(set), collections.defaultdict(set)
    for text, image in rows:
        images[text].add(image)
        texts[image].add(text)
    shared = {hash_text(own): len(images[own]) for own in images}
    shared = {own: number for own, number in shared.items() if number > 3}
    crowded = sorted(hash_text(own) for own in texts if len(texts[own]) > 10)
    assert chosen(tmp_path) == (
        [sorted(map(hash_ngram, ranked[:50])), sorted(shared), crowded]
    )
    top = sorted(shared.items(), key=lambda own: (-own[1], own[0]))[:100]
    assert summary == {
        "distinct_ngrams": len(counts),
        "frequent_ngrams": 50,
        "ngram_count": counts[ranked[49]],
        "shared_texts": len(shared),
        "crowded_images": len(crowded),
        "top_texts": [list(own) for own in top],
    }
    assert 10 < len(crowded) and 3 < len(shared)
    assert json.loads((tmp_path / "chosen" / "summary.json").read_text()) == summary


def test_neither_order_nor_tables_nor_partitions_nor_spills_matter(
    tmp_path, monkeypatch
):
    rows = rows_of(600)
    write(tmp_path / "one.parquet", rows)
    count(tmp_path / "one", [tmp_path / "one.parquet"], 1, THRESHOLDS)
    random.Random(1).shuffle(rows)
    paths = [tmp_path / f"{own}.parquet" for own in range(3)]
    for number, path in enumerate(paths):
        write(path, rows[number::3])
    monkeypatch.setattr(module, "NGRAMS_PER_SPILL", 100)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 30)
    count(tmp_path / "three", paths[::-1], 7, THRESHOLDS)
    assert len(list((tmp_path / "three/spills").glob("ngrams-*"))) > 6
    assert chosen(tmp_path / "three") == chosen(tmp_path / "one")


def test_a_repeated_task_counts_once(tmp_path):
    write(tmp_path / "a.parquet", rows_of(100))
    first = count(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS)
    assert count(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS) == first
    assert count_texts(tmp_path / "a.parquet", tmp_path) == 100


def test_where_all_are_frequent_there_is_nothing_to_look_up(tmp_path):
    write(tmp_path / "a.parquet", rows_of(100))
    count(tmp_path, [tmp_path / "a.parquet"], 2, THRESHOLDS)
    assert (tmp_path / "chosen/ngrams.npy").exists()
    summary = count(tmp_path, [tmp_path / "a.parquet"], 2, Thresholds())
    assert summary["frequent_ngrams"] == summary["distinct_ngrams"] > 50
    assert summary["ngram_count"] == 0
    assert not (tmp_path / "chosen/ngrams.npy").exists()


def test_partitions_bound_the_memory(tmp_path, monkeypatch):
    assert count_partitions(tmp_path) == 1
    write(tmp_path / "a.parquet", rows_of(600))
    count_texts(tmp_path / "a.parquet", tmp_path)
    assert count_partitions(tmp_path) == 1
    monkeypatch.setattr(module, "ENTRIES_PER_PARTITION", 100)
    assert 6 <= count_partitions(tmp_path) <= 8  # 600 pairs, and the files' headers.


@pytest.mark.parametrize("partitions", [1, 2, 3, 16])
def test_partitions_meet_without_gap_or_overlap(tmp_path, partitions):
    bounds = [own * 2**64 // partitions for own in range(1, partitions)]
    keys = sorted({0, 2**64 - 1, *bounds, *(own - 1 for own in bounds)})
    (tmp_path / "spills").mkdir()
    spill = np.array([keys, [1] * len(keys)], np.uint64)
    for kind in ("ngrams", "texts", "images"):
        np.save(tmp_path / "spills" / f"{kind}-a-0.npy", spill)
    for own in range(partitions):
        merge_counts(own, partitions, tmp_path, THRESHOLDS)
    parts = [
        np.load(tmp_path / f"merged/{partitions}/ngrams-{own}.npy")[0].tolist()
        for own in range(partitions)
    ]
    assert sum(parts, []) == keys and all(len(own) <= 2 for own in parts)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", rows_of(10))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        count_texts(tmp_path / "a.parquet", tmp_path)
    assert list((tmp_path / "spills").iterdir()) == []


def test_empty_tables_count_as_none(tmp_path):
    schema = pa.schema([("caption", pa.string()), ("image_key", pa.string())])
    pa.parquet.write_table(schema.empty_table(), tmp_path / "a.parquet")
    summary = count(tmp_path, [tmp_path / "a.parquet"], 1, THRESHOLDS)
    assert summary["distinct_ngrams"] == summary["shared_texts"] == 0


keys = st.integers(0, 5).map(lambda own: own * 2**61)
entries = st.lists(st.tuples(keys, st.integers(0, 4)), max_size=30)


def columns(rows):
    return np.array(rows, np.uint64).reshape(-1, 2).T


@hypothesis.given(entries)
def test_sums(rows):
    expected = collections.Counter()
    for key, count in rows:
        expected[key] += count
    found = sum_by_key(*columns(rows))
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted(expected.items())
    )
    ones = collections.Counter(key for key, _ in rows)
    found = sum_by_key(columns(rows)[0])
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted(ones.items())
    )


@hypothesis.given(entries, st.integers(1, 4))
def test_limits_count_distinct_values(rows, limit):
    values = collections.defaultdict(set)
    for key, value in rows:
        values[key].add(value)
    found = keys_over_limit(*columns(rows), limit)
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted((key, len(own)) for key, own in values.items() if len(own) > limit)
    )


@hypothesis.given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 14))
def test_the_most_frequent(counts, limit):
    own_keys = np.arange(len(counts), dtype=np.uint64) * 7
    counts = np.array(counts, np.uint64)
    ranked = sorted(zip(-counts.astype(int), own_keys.tolist(), strict=True))
    expected = sorted(key for _, key in ranked[:limit])
    threshold = rank_threshold(count_histogram(counts), limit)
    assert select_frequent(own_keys, counts, *threshold).tolist() == expected
    assert (threshold == (0, 0)) == (len(counts) <= limit)


@hypothesis.given(st.sets(keys), st.lists(keys))
def test_members(known, asked):
    found = is_member(np.array(sorted(known), np.uint64), np.array(asked, np.uint64))
    assert found.tolist() == [own in known for own in asked]

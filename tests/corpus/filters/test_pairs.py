"""Tests of `filter_pairs` against a simple reference and the filter of tables."""

import random
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import pytest

from align_keras.corpus import Pair, Thresholds, filter_pairs
from align_keras.corpus.filters.counts import choose_frequent, count_texts, merge_counts
from align_keras.corpus.filters.filter_rules import REASONS
from align_keras.corpus.filters.tables import filter_table, merge_results
from tests.helpers.filter_reference import filter_reference

words = st.sampled_from(["a", "B", "b", "猫", "é", "x1", "jane@example.org"])
captions = st.builds(
    lambda chosen_words, separator: separator.join(chosen_words),
    st.lists(words, max_size=5),
    st.sampled_from(" -"),
) | st.sampled_from(["", "  a  b ", "A b", "a b"])
pairs_strategy = st.lists(
    st.builds(
        Pair,
        st.sampled_from([(0, 0), (10, 10), (11, 22), (22, 11), (21, 11), (90, 60)]),
        st.sampled_from("pqr"),
        captions,
        st.sampled_from(["", "en", "en-GB", "de"]),
    ),
    max_size=15,
)
thresholds_strategy = st.builds(
    Thresholds,
    min_shorter_side=st.sampled_from([0, 10]),
    max_aspect=st.sampled_from([2.0, 9.0]),
    max_pixels=st.sampled_from([231, 9999]),
    max_texts_per_image=st.integers(1, 6),
    max_images_per_text=st.integers(1, 3),
    min_unigrams=st.integers(1, 3),
    max_unigrams=st.integers(3, 4),
    frequent_ngrams=st.integers(0, 30),
    languages=st.sampled_from([(), ("en",), ("", "de")]),
    drop_personal_data=st.booleans(),
)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(pairs_strategy, thresholds_strategy)
def test_filters_equal_the_reference_with_sets_and_counters(pairs, thresholds):
    # The reference splits words at spaces only.
    pairs = [pair._replace(caption=pair.caption.replace("-", " - ")) for pair in pairs]
    kept_pairs, counts = filter_pairs(iter(pairs), thresholds)
    expected, expected_counts = filter_reference(pairs, thresholds)
    assert kept_pairs == expected
    assert {
        reason: count for reason, count in counts.items() if count
    } == expected_counts
    assert list(counts) == ["kept", *REASONS]
    assert sum(counts.values()) == len(pairs)


def write_table(path, pairs):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    columns = {
        "image": [f"at {pair.image_key}" for pair in pairs],
        "image_key": [pair.image_key for pair in pairs],
        "width": pa.array([pair.image_size[0] for pair in pairs], pa.int32()),
        "height": pa.array([pair.image_size[1] for pair in pairs], pa.int32()),
        "caption": pa.array([pair.caption for pair in pairs], pa.string()),
        "rule": ["alt"] * len(pairs),
        "language": [pair.language for pair in pairs],
    }
    for name in ("image", "image_key", "rule", "language"):
        columns[name] = pa.array(columns[name], pa.string())
    pyarrow.parquet.write_table(pa.table(columns), path)


def read_table(path):
    import pyarrow.parquet

    return [
        Pair((row["width"], row["height"]), *map(row.get, Pair._fields[1:]))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(
    pairs=pairs_strategy,
    thresholds=thresholds_strategy,
    tables=st.integers(1, 3),
    partitions=st.sampled_from([1, 3]),
    shuffle=st.randoms(use_true_random=False),
)
def test_filters_of_tables_keep_the_same_pairs(
    pairs, thresholds, tables, partitions, shuffle, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("counts")
    shuffled = shuffle.sample(pairs, len(pairs))
    paths = [folder / f"{number}.parquet" for number in range(tables)]
    for number, path in enumerate(paths):
        write_table(path, shuffled[number::tables])
    assert sum(count_texts(path, folder) for path in paths) == len(pairs)
    for partition in range(partitions):
        merge_counts(partition, partitions, folder, thresholds)
    choose_frequent(partitions, folder, thresholds)
    kept_pairs, results = [], []
    for path in paths:
        destination = folder / f"kept-{path.name}"
        results.append(filter_table(path, destination, folder, thresholds))
        kept_pairs += read_table(destination)
    expected, counts = filter_pairs(pairs, thresholds)
    assert sorted(kept_pairs) == sorted(expected)
    assert merge_results(results)["counts"] == counts


class Record(NamedTuple):
    image_size: tuple
    image_key: str
    caption: str
    language: str
    number: int


def test_records_are_unchanged_except_for_their_captions():
    pairs = [
        Pair((640, 480), "1", "one two three"),
        ((640, 480), "2", "one  two three"),
        ([640, 480], "3", "one two &amp; four", "en", {"further": "item"}),
        Record((640, 480), "4", "one\ttwo four", "en", 7),
    ]
    kept_pairs, _ = filter_pairs(pairs)
    assert kept_pairs[0] is pairs[0]
    assert kept_pairs[1] == ((640, 480), "2", "one two three")
    assert kept_pairs[2] == (
        [640, 480],
        "3",
        "one two & four",
        "en",
        {"further": "item"},
    )
    assert kept_pairs[3] == Record((640, 480), "4", "one two four", "en", 7)
    assert type(kept_pairs[3]) is Record and type(kept_pairs[1]) is tuple


def test_the_batch_size_does_not_change_the_result(monkeypatch):
    random.seed(0)
    pairs = [
        Pair((300, 300), str(number % 70), " ".join(random.choices("abcdef", k=3)))
        for number in range(500)
    ]
    whole = filter_pairs(pairs, Thresholds(frequent_ngrams=20))
    monkeypatch.setattr("align_keras.corpus.filters.pairs.PAIRS_PER_BATCH", 7)
    assert filter_pairs(pairs, Thresholds(frequent_ngrams=20)) == whole
    assert 0 < len(whole[0]) < 500 and whole[1]["rare n-gram"] > 0


def test_an_empty_input_has_no_drop_reasons():
    kept_pairs, counts = filter_pairs([])
    assert kept_pairs == [] and set(counts.values()) == {0}

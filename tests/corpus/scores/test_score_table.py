"""Tests of tables of scores, against conditions in Python."""

import pyarrow
import pyarrow.parquet
import pytest

from align_keras.corpus.scores import ScoreTable
from align_keras.corpus.scores.score_table import scores_path, with_metadata
from align_keras.utils.errors import InputError

# Shards of 3 and 2 images. The images have 2, 1, 3, 1 and 2 captions.
ROWS = [
    (shard, id, number, caption, language, similarity, draw)
    for shard, id, number, caption, language, similarity, draw in [
        ("a", "1", 0, "Ein Bär", "de", 0.1, 0.9),
        ("a", "1", 1, "a bear", "en", 0.3, 0.8),
        ("a", "2", 0, "a cat", "en", -0.2, 0.7),
        ("a", "3", 0, "it's a dog", "", 0.25, 0.6),
        ("a", "3", 1, "dog", "en", 0.2, 0.5),
        ("a", "3", 2, "ÄPFEL", "de", 0.4, 0.05),
        ("b", "4", 0, "fish", "en", 0.5, 0.3),
        ("b", "5", 0, "a bird", None, 0.0, 0.2),
        ("b", "5", 1, "bird", "en", 0.45, 0.1),
    ]
]
NAMES = ("shard", "id", "caption_number", "caption", "language", "similarity", "draw")
METADATA = {"shards": "digest", "key": "score-1", "model": None}


def write_table(path, rows=ROWS, metadata=METADATA):
    rows = [dict(zip(NAMES, row, strict=True)) for row in rows]
    table = pyarrow.Table.from_pylist(rows)
    if metadata is not None:
        table = table.cast(with_metadata(table.schema, metadata))
    # Small row groups test the borders between blocks of rows.
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return ScoreTable(write_table(tmp_path_factory.mktemp("scores") / "s.parquet"))


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("similarity > 0.2", lambda row: row["similarity"] > 0.2),
        (
            "similarity >= 0.2 and language = 'en'",
            lambda row: row["similarity"] >= 0.2 and row["language"] == "en",
        ),
        ("draw < similarity", lambda row: row["draw"] < row["similarity"]),
        ("not language = 'en'", lambda row: row["language"] not in ("en", None)),
        ("language is null", lambda row: row["language"] is None),
        ("caption like '%äpf%'", lambda row: "äpf" in row["caption"].lower()),
        ("caption like '%BÄR'", lambda row: row["caption"].lower().endswith("bär")),
        ("caption in ('dog', 'it''s a dog')", lambda row: "dog" in row["caption"]),
        ("caption_number between 1 and 2", lambda row: row["caption_number"] >= 1),
        ("shard = 'b'", lambda row: row["shard"] == "b"),
        ("similarity > 9", lambda row: False),
    ],
)
def test_a_condition_selects_the_captions_for_which_it_holds(table, where, holds):
    selection = table.select(where)
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    expected = [row for row in rows if holds(row)]
    assert (selection.num_images, selection.num_captions) == (5, 9)
    assert selection.kept_captions == len(expected)
    assert selection.kept_images == len({row["id"] for row in expected})
    ids = {"a": ["1", "2", "3"], "b": ["4", "5"]}
    selected = [
        (shard, ids[shard][image], caption)
        for shard, part in selection.shards.items()
        for position, image in enumerate(part.images.tolist())
        for caption in part.captions_of(position).tolist()
    ]
    assert selected == [
        (row["shard"], row["id"], row["caption_number"]) for row in expected
    ]


def test_counts_of_captions_include_those_that_are_dropped(table):
    part = table.select("similarity > 0.2").shards["a"]
    assert part.images.tolist() == [0, 2]
    assert part.counts.tolist() == [1, 2]
    assert part.all_counts.tolist() == [2, 3]
    assert part.captions.tolist() == [1, 0, 2]


def test_examples_are_the_pairs_with_the_lowest_draws(table):
    kept_rows, dropped_rows = table.examples("similarity > 0.2", 2)
    assert kept_rows == [
        {"id": "3", "caption": "ÄPFEL", "similarity": 0.4},
        {"id": "5", "caption": "bird", "similarity": 0.45},
    ]
    assert [row["caption"] for row in dropped_rows] == ["a bird", "dog"]


def test_columns_and_quantiles(table):
    assert table.columns["similarity"] == "number" and table.columns["id"] == "text"
    assert table.quantiles([0, 0.5, 1]) == {"similarity": [-0.2, 0.25, 0.5]}


def test_a_missing_table_is_reported(tmp_path):
    with pytest.raises(InputError, match="corpus score"):
        ScoreTable(tmp_path / "scores.parquet")


def test_scores_of_other_shards_are_refused(table, tmp_path):
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(InputError, match="other shards"):
        table.check_shards(tmp_path)


def test_an_unknown_column_is_refused(table):
    with pytest.raises(InputError, match="quality"):
        table.select("quality > 1")


def test_scores_are_next_to_the_folder_of_the_shards(tmp_path):
    path = scores_path(tmp_path / "corpus" / "web_pairs" / "1.0.0")
    assert path == tmp_path / "corpus" / "scores.parquet"

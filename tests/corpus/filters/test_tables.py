"""Tests of the kept pairs, samples and shared captions of filtered tables."""

import json
import random

import pytest

from align_keras.corpus import Thresholds
from align_keras.corpus.filters.counts import choose_frequent, count_texts, merge_counts
from align_keras.corpus.filters.filter_rules import REASONS
from align_keras.corpus.filters.tables import SAMPLES, filter_table, merge_results

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("image_key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("rule", pa.string()),
        ("language", pa.string()),
        ("page_url", pa.string()),
        ("source", pa.string()),
    ],
    {"made by": "a test"},
)


def table_row(key, caption, size=(300, 300), page="p"):
    values = [f"at {key}", key, *size, caption, "alt", "en", page, "s"]
    return dict(zip(SCHEMA.names, values, strict=True))


def filter_rows(folder, tables, thresholds=None):
    """Filters lists of rows. Returns the kept rows of each table and the result."""
    thresholds = thresholds or Thresholds(max_images_per_text=2)
    folder.mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(tables):
        paths.append(folder / f"{number}.parquet")
        pa.parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), paths[-1])
        count_texts(paths[-1], folder)
    merge_counts(0, 1, folder, thresholds)
    choose_frequent(1, folder, thresholds)
    results = [
        filter_table(path, folder / "kept" / path.name, folder, thresholds)
        for path in paths
    ]
    kept_rows = [
        pa.parquet.read_table(folder / "kept" / path.name).to_pylist() for path in paths
    ]
    return kept_rows, merge_results(results)


def mixed_rows():
    """Returns rows that are kept, and rows that are dropped for several reasons."""
    rows = [
        table_row(f"small{number}", f"one of many {number}", (9, 9))
        for number in range(60)
    ]
    rows += [
        table_row(f"good{number}", f"a good text {number}") for number in range(60)
    ]
    rows += [
        table_row(f"shared{number}", random.choice(["Home page", "HOME page"]))
        for number in range(30)
    ]
    rows += [table_row(f"rare{number}", "next page") for number in range(3)]
    # The same pair on nine pages.
    rows += [
        table_row("good1", "a good text 1", page=f"p{number}") for number in range(9)
    ]
    return rows


def test_kept_rows_have_the_same_columns_and_order(tmp_path):
    rows = [
        table_row("a", "a  good <b>text</b>"),
        table_row("b", "bad"),
        table_row("c", "so good a text"),
    ]
    rows.append(table_row("d", None) | {"width": None, "language": None})
    kept_rows, result = filter_rows(tmp_path, [rows])
    assert kept_rows == [[table_row("a", "a good text"), rows[2]]]
    assert result["counts"]["kept"] == result["counts"]["few unigrams"] == 2
    assert list(result["counts"]) == ["kept", *REASONS]
    written = pa.parquet.ParquetFile(tmp_path / "kept/0.parquet")
    assert written.schema_arrow.equals(SCHEMA, check_metadata=True)
    assert written.metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_resized_images_are_dropped_or_kept(tmp_path, policy):
    schema = SCHEMA.append(pa.field("is_resized", pa.bool_()))
    rows = [
        table_row("a", "a good text") | {"is_resized": True},
        table_row("b", "a text as good") | {"is_resized": False},
        table_row("c", "of an older table") | {"is_resized": None},
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    thresholds = Thresholds(unknown_sizes=policy)
    count_texts(tmp_path / "a.parquet", tmp_path)
    merge_counts(0, 1, tmp_path, thresholds)
    choose_frequent(1, tmp_path, thresholds)
    table, destination = tmp_path / "a.parquet", tmp_path / "kept.parquet"
    counts = filter_table(table, destination, tmp_path, thresholds)["counts"]
    is_kept = policy == "keep"
    assert counts["unknown size"] == 1 - is_kept and counts["kept"] == 2 + is_kept
    assert pa.parquet.read_table(destination).to_pylist() == rows[1 - is_kept :]


def test_row_groups_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("align_keras.corpus.filters.tables.ROWS_PER_GROUP", 10)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 4)
    rows = [table_row(str(number), f"a good text {number}") for number in range(35)]
    kept_rows, _ = filter_rows(tmp_path, [rows])
    assert kept_rows == [rows]
    metadata = pa.parquet.ParquetFile(tmp_path / "kept/0.parquet").metadata
    sizes = [
        metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)
    ]
    assert max(sizes) <= 10 and len(sizes) < 9


def test_order_and_tables_do_not_change_the_result(tmp_path, monkeypatch):
    random.seed(0)
    rows = mixed_rows()
    _, whole = filter_rows(tmp_path / "one", [rows])
    random.shuffle(rows)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 16)
    _, parts = filter_rows(tmp_path / "three", [rows[number::3] for number in range(3)])
    assert json.dumps(parts, sort_keys=True) == json.dumps(whole, sort_keys=True)
    again = merge_results([json.loads(json.dumps(whole)), merge_results([])])
    assert again == whole


def test_samples_are_rows_sorted_by_hash(tmp_path):
    random.seed(0)
    rows = mixed_rows()
    _, result = filter_rows(tmp_path, [rows])
    samples = result["samples"]
    assert {reason: len(rows) for reason, rows in samples.items() if rows} == {
        "kept": SAMPLES,
        "shorter side": SAMPLES,
        "images per text": SAMPLES,
    }
    for samples_by_hash in samples.values():
        assert list(samples_by_hash) == sorted(samples_by_hash)
        assert all(sample in rows for sample in samples_by_hash.values())


def test_the_sample_of_a_repeated_pair_has_the_first_page(tmp_path):
    rows = [table_row("a", "a good text", page=f"p{number}") for number in (3, 1, 2)]
    _, result = filter_rows(tmp_path, [rows[:2], rows[2:]])
    assert [row["page_url"] for row in result["samples"]["kept"].values()] == ["p1"]
    assert result["counts"]["kept"] == 3


def test_samples_hide_personal_data(tmp_path):
    rows = [
        table_row("a", "jane@example.org and me"),
        table_row("b", "Tel. 555 1234 567", (1, 1)),
    ]
    _, result = filter_rows(tmp_path / "drop", [rows])
    texts = [
        row["caption"]
        for reason in REASONS
        for row in result["samples"][reason].values()
    ]
    assert sorted(texts) == ["[email]", "[phone]"]
    _, result = filter_rows(
        tmp_path / "keep", [rows], Thresholds(drop_personal_data=False)
    )
    assert "jane@example.org" in json.dumps(result["samples"])


def test_the_most_shared_texts_are_returned(tmp_path):
    random.seed(0)
    rows = mixed_rows()
    _, result = filter_rows(tmp_path, [rows[:130], rows[130:]])
    shared = sorted(result["shared_texts"].values(), key=lambda text: -text[1])
    assert shared == [["HOME page", 30], ["next page", 3]]
    assert result["counts"]["images per text"] == 33


def test_equal_tables_are_written_as_equal_bytes(tmp_path):
    rows = mixed_rows()
    for name in ("one", "two"):
        filter_rows(tmp_path / name, [rows])
    one, two = (
        (tmp_path / name / "kept/0.parquet").read_bytes() for name in ("one", "two")
    )
    assert one == two


def test_the_spelling_of_a_shared_text_does_not_depend_on_the_order():
    results = [
        merge_results([]) | {"shared_texts": {"0a": [text, 30]}}
        for text in ("HOME page", "Home page")
    ]
    for ordered_results in (results, results[::-1]):
        merged = merge_results(ordered_results)
        assert merged["shared_texts"] == {"0a": ["HOME page", 30]}


def test_a_damaged_table_leaves_no_output(tmp_path):
    filter_rows(tmp_path, [mixed_rows()])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(OSError, match="Parquet"):
        filter_table(broken, tmp_path / "new/x.parquet", tmp_path, Thresholds())
    assert not list(tmp_path.glob("new/*"))

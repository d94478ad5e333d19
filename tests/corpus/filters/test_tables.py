"""One table's kept pairs, samples and shared texts."""

import json
import random

import pytest

from align_keras.corpus import Thresholds
from align_keras.corpus.filters.counts import choose_frequent, count_texts, merge_counts
from align_keras.corpus.filters.filter_rules import REASONS
from align_keras.corpus.filters.tables import SAMPLES, filter_table, merge_results
from align_keras.utils.errors import InputError

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


def row(key, caption, size=(300, 300), page="p"):
    values = [f"at {key}", key, *size, caption, "alt", "en", page, "s"]
    return dict(zip(SCHEMA.names, values, strict=True))


def run(folder, tables, thresholds=None):
    """Filters tables of rows and returns (kept rows by table, merged result)."""
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
        filter_table(own, folder / "kept" / own.name, folder, thresholds)
        for own in paths
    ]
    kept = [
        pa.parquet.read_table(folder / "kept" / own.name).to_pylist() for own in paths
    ]
    return kept, merge_results(results)


def mixed_rows():
    rows = [row(f"small{own}", f"one of many {own}", (9, 9)) for own in range(60)]
    rows += [row(f"good{own}", f"a good text {own}") for own in range(60)]
    rows += [
        row(f"shared{own}", random.choice(["Home page", "HOME page"]))
        for own in range(30)
    ]
    rows += [row(f"rare{own}", "next page") for own in range(3)]
    # The same pair, on pages of its own.
    return rows + [row("good1", "a good text 1", page=f"p{own}") for own in range(9)]


def test_kept_rows_keep_their_columns_and_order(tmp_path):
    rows = [
        row("a", "a  good <b>text</b>"),
        row("b", "bad"),
        row("c", "so good a text"),
    ]
    rows.append(row("d", None) | {"width": None, "language": None})
    kept, result = run(tmp_path, [rows])
    assert kept == [[row("a", "a good text"), rows[2]]]
    assert result["counts"]["kept"] == result["counts"]["few unigrams"] == 2
    assert list(result["counts"]) == ["kept", *REASONS]
    written = pa.parquet.ParquetFile(tmp_path / "kept/0.parquet")
    assert written.schema_arrow.equals(SCHEMA, check_metadata=True)
    assert written.metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_images_of_unknown_size(tmp_path, policy):
    schema = SCHEMA.append(pa.field("is_resized", pa.bool_()))
    rows = [
        row("a", "a good text") | {"is_resized": True},
        row("b", "a text as good") | {"is_resized": False},
        row("c", "of an older table") | {"is_resized": None},
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    thresholds = Thresholds(unknown_sizes=policy)
    count_texts(tmp_path / "a.parquet", tmp_path)
    merge_counts(0, 1, tmp_path, thresholds)
    choose_frequent(1, tmp_path, thresholds)
    table, kept = tmp_path / "a.parquet", tmp_path / "kept.parquet"
    counts = filter_table(table, kept, tmp_path, thresholds)["counts"]
    stays = policy == "keep"
    assert counts["unknown size"] == 1 - stays and counts["kept"] == 2 + stays
    assert pa.parquet.read_table(kept).to_pylist() == rows[1 - stays :]


def test_groups_of_rows_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("align_keras.corpus.filters.tables.ROWS_PER_GROUP", 10)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 4)
    rows = [row(str(own), f"a good text {own}") for own in range(35)]
    kept, _ = run(tmp_path, [rows])
    assert kept == [rows]
    metadata = pa.parquet.ParquetFile(tmp_path / "kept/0.parquet").metadata
    sizes = [metadata.row_group(own).num_rows for own in range(metadata.num_row_groups)]
    assert max(sizes) <= 10 and len(sizes) < 9


def test_neither_order_nor_tables_change_the_result(tmp_path, monkeypatch):
    random.seed(0)
    rows = mixed_rows()
    _, whole = run(tmp_path / "one", [rows])
    random.shuffle(rows)
    monkeypatch.setattr("align_keras.corpus.parquet_tables.ROWS_PER_BATCH", 16)
    _, parts = run(tmp_path / "three", [rows[own::3] for own in range(3)])
    assert json.dumps(parts, sort_keys=True) == json.dumps(whole, sort_keys=True)
    again = merge_results([json.loads(json.dumps(whole)), merge_results([])])
    assert again == whole


def test_samples(tmp_path):
    random.seed(0)
    rows = mixed_rows()
    _, result = run(tmp_path, [rows])
    samples = result["samples"]
    assert {reason: len(own) for reason, own in samples.items() if own} == {
        "kept": SAMPLES,
        "shorter side": SAMPLES,
        "images per text": SAMPLES,
    }
    for own in samples.values():
        assert list(own) == sorted(own)
        assert all(sample in rows for sample in own.values())


def test_of_a_repeated_pair_the_first_page_is_the_sample(tmp_path):
    rows = [row("a", "a good text", page=f"p{own}") for own in (3, 1, 2)]
    _, result = run(tmp_path, [rows[:2], rows[2:]])
    assert [own["page_url"] for own in result["samples"]["kept"].values()] == ["p1"]
    assert result["counts"]["kept"] == 3


def test_samples_hide_personal_data(tmp_path):
    rows = [row("a", "jane@example.org and me"), row("b", "Tel. 555 1234 567", (1, 1))]
    _, result = run(tmp_path / "drop", [rows])
    texts = [
        own["caption"] for kind in REASONS for own in result["samples"][kind].values()
    ]
    assert sorted(texts) == ["[email]", "[phone]"]
    _, result = run(tmp_path / "keep", [rows], Thresholds(drop_personal_data=False))
    assert "jane@example.org" in json.dumps(result["samples"])


def test_most_shared_texts(tmp_path):
    random.seed(0)
    rows = mixed_rows()
    _, result = run(tmp_path, [rows[:130], rows[130:]])
    shared = sorted(result["shared_texts"].values(), key=lambda own: -own[1])
    assert shared == [["HOME page", 30], ["next page", 3]]
    assert result["counts"]["images per text"] == 33


def test_equal_tables_make_equal_bytes(tmp_path):
    rows = mixed_rows()
    for name in ("one", "two"):
        run(tmp_path / name, [rows])
    one, two = (
        (tmp_path / own / "kept/0.parquet").read_bytes() for own in ("one", "two")
    )
    assert one == two


def test_of_spellings_the_same_is_shown_in_any_order():
    results = [
        merge_results([]) | {"shared_texts": {"0a": [text, 30]}}
        for text in ("HOME page", "Home page")
    ]
    for own in (results, results[::-1]):
        assert merge_results(own)["shared_texts"] == {"0a": ["HOME page", 30]}


def test_a_broken_table_leaves_nothing_under_its_name(tmp_path):
    run(tmp_path, [mixed_rows()])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(InputError, match="broken.parquet can't be read"):
        filter_table(broken, tmp_path / "new/x.parquet", tmp_path, Thresholds())
    assert not list(tmp_path.glob("new/*"))

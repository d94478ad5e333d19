"""Tables of pairs in batches."""

import pyarrow.parquet
import pytest

from align_keras.corpus import parquet_tables
from align_keras.corpus.parquet_tables import (
    pair_schema,
    read_batches,
    read_rows,
    string_list,
    table_writer,
)
from align_keras.utils.errors import InputError


def row(number):
    texts = dict.fromkeys(
        ("image", "image_key", "caption", "rule", "language", "page_url", "source"),
        f"text {number}",
    )
    sizes = {"width": number, "height": 2 * number, "is_resized": number % 2 == 0}
    return {**texts, **sizes}


def test_rows_come_back_in_groups(tmp_path):
    rows = [row(number) for number in range(10)]
    path = tmp_path / "a.parquet"
    with table_writer(path, pair_schema(), rows_per_group=4) as append:
        for own in rows:
            append([own])
    assert list(read_rows(tmp_path / "a.parquet")) == rows
    names = [own["width"] for own in read_rows(tmp_path / "a.parquet", ["width"])]
    assert names == list(range(10))
    # pyarrow's own reading agrees.
    with pyarrow.parquet.ParquetFile(tmp_path / "a.parquet") as file:
        assert file.num_row_groups == 3
        assert file.schema_arrow.equals(pair_schema())


def test_an_error_leaves_neither_the_table_nor_a_part_of_it(tmp_path):
    with (
        pytest.raises(RuntimeError),
        table_writer(tmp_path / "a.parquet", pair_schema()) as append,
    ):
        append([row(1)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_make_equal_bytes(tmp_path):
    for name in ("a", "b"):
        with table_writer(tmp_path / name, pair_schema()) as append:
            append([row(number) for number in range(100)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"caption": ["a", None, "c"], "width": [1, 2, 3]}
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_batches(table, monkeypatch):
    [whole] = read_batches(table, ["caption"])
    assert whole.schema.names == ["caption"]
    assert string_list(whole["caption"]) == ["a", "", "c"]
    monkeypatch.setattr(parquet_tables, "ROWS_PER_BATCH", 2)
    assert [own.num_rows for own in read_batches(table)] == [2, 1]


def test_what_is_wrong_is_named(table, tmp_path):
    with pytest.raises(InputError, match="none.parquet can't be read"):
        list(read_batches(tmp_path / "none.parquet", []))
    for content in (b"", b"not a table", table.read_bytes()[:-20]):
        table.write_bytes(content)
        with pytest.raises(InputError, match="must be a Parquet file"):
            list(read_batches(table, []))

"""Tests of Parquet tables of pairs."""

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


def row(number):
    texts = dict.fromkeys(
        ("image", "image_key", "caption", "rule", "language", "page_url", "source"),
        f"text {number}",
    )
    sizes = {"width": number, "height": 2 * number, "is_resized": number % 2 == 0}
    return {**texts, **sizes}


def test_written_rows_are_read_again(tmp_path):
    rows = [row(number) for number in range(10)]
    path = tmp_path / "a.parquet"
    with table_writer(path, pair_schema(), rows_per_group=4) as append:
        for single_row in rows:
            append([single_row])
    assert list(read_rows(path)) == rows
    widths = [values["width"] for values in read_rows(path, ["width"])]
    assert widths == list(range(10))
    with pyarrow.parquet.ParquetFile(path) as file:
        assert file.num_row_groups == 3
        assert file.schema_arrow.equals(pair_schema())


def test_an_error_leaves_no_files(tmp_path):
    with (
        pytest.raises(RuntimeError),
        table_writer(tmp_path / "a.parquet", pair_schema()) as append,
    ):
        append([row(1)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_give_equal_files(tmp_path):
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


def test_a_table_is_read_in_batches(table, monkeypatch):
    [batch] = read_batches(table, ["caption"])
    assert batch.schema.names == ["caption"]
    assert string_list(batch["caption"]) == ["a", "", "c"]
    monkeypatch.setattr(parquet_tables, "ROWS_PER_BATCH", 2)
    assert [batch.num_rows for batch in read_batches(table)] == [2, 1]


def test_a_damaged_table_raises_an_error(table):
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(OSError, match="Parquet"):
        list(read_batches(table, []))

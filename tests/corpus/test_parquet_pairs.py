import pyarrow.parquet
import pytest

from align_keras.corpus.parquet_pairs import pair_schema, read_rows, table_writer


def row(number):
    texts = dict.fromkeys(
        ("image", "image_key", "caption", "rule", "language", "page_url", "source"),
        f"text {number}",
    )
    return {**texts, "width": number, "height": 2 * number}


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

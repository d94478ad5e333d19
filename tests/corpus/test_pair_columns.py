"""Tables of pairs in batches."""

import pytest

from align_keras.corpus import pair_columns
from align_keras.corpus.pair_columns import read_batches, read_columns
from align_keras.utils.errors import InputError

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"caption": ["a", None, "c"], "width": [1, 2, 3]}
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_batches(table, monkeypatch):
    assert list(read_columns(table, ["caption"])) == [{"caption": ["a", "", "c"]}]
    monkeypatch.setattr(pair_columns, "_ROWS_AT_ONCE", 2)
    assert [own["caption"] for own in read_columns(table, ["caption"])] == (
        [["a", ""], ["c"]]
    )
    assert [own.num_rows for own in read_batches(table, ["width"])] == [2, 1]


@pytest.mark.parametrize("read", [read_columns, read_batches])
def test_what_is_wrong_is_named(table, read, tmp_path):
    with pytest.raises(InputError, match="a.parquet must have the column 'language'"):
        list(read(table, ["caption", "language"]))
    with pytest.raises(InputError, match="none.parquet can't be read"):
        list(read(tmp_path / "none.parquet", []))
    for content in (b"", b"not a table", table.read_bytes()[:-20]):
        table.write_bytes(content)
        with pytest.raises(InputError, match="must be a Parquet file"):
            list(read(table, []))

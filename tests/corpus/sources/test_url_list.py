"""Tests of the lists of images for img2dataset, which reads them with pyarrow."""

import sys

import pytest

from align_keras.corpus.sources.pair import SourcePair
from align_keras.corpus.sources.url_list import write_url_list
from align_keras.utils.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")
PAIRS = [
    SourcePair("https://e.org/a,b.jpg?x=1&y='", 'A "red" cat, seen', "alt", "en", "p"),
    SourcePair("/local.jpg", "not remote"),
    SourcePair("data:,x", "not remote"),
    SourcePair("HTTP://e.org/b", '"木', "title", "", ""),
    SourcePair("HTTP://e.org/b", "x" * 2000, "figcaption", "zh-hant", ""),
]
READERS = {
    ".parquet": pq.read_table,
    ".csv": csv.read_csv,
    ".tsv": lambda path: csv.read_csv(
        path, parse_options=csv.ParseOptions(delimiter="\t")
    ),
}


@pytest.mark.parametrize("suffix", READERS)
def test_remote_images_are_written(tmp_path, suffix):
    path = tmp_path / f"urls{suffix}"
    assert write_url_list(iter(PAIRS), path) == 3
    table = READERS[suffix](path)
    assert table.column_names == ["url", "caption", "rule", "language", "page_url"]
    remote = [pair[:5] for pair in [PAIRS[0], *PAIRS[3:]]]
    assert [tuple(row.values()) for row in table.to_pylist()] == remote
    content = path.read_bytes()
    write_url_list(iter(PAIRS), path)
    assert path.read_bytes() == content


def test_a_list_can_be_empty(tmp_path):
    path = tmp_path / "urls.parquet"
    assert write_url_list([], path) == 0
    assert pq.read_table(path).num_rows == 0


def test_another_suffix_raises_an_error(tmp_path):
    with pytest.raises(InputError, match="xlsx"):
        write_url_list(PAIRS, tmp_path / "urls.xlsx")


def test_only_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"\[parquet\]"):
        write_url_list(PAIRS, tmp_path / "urls.parquet")
    assert write_url_list(PAIRS, tmp_path / "urls.csv") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["urls.csv"]

"""Tests of the patterns of sources."""

import pytest

from align_keras.datasets import open_sources
from tests.helpers.source_files import write_tars


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_overlapping_patterns_read_a_file_once(tmp_path):
    folder = write_tars(tmp_path / "tars", files=12, count=1)
    for number in range(12):
        (folder / f"{number:05}.tar").rename(folder / f"{number}.tar")
    source = open_sources(f"{folder}/{{1..11}}*.tar")
    assert source.info.splits["train"].num_examples == 11


def test_a_missing_file_of_a_range_is_named(tmp_path):
    folder = write_tars(tmp_path / "tars", files=2, count=1)
    with pytest.raises(FileNotFoundError) as caught:
        open_sources(f"{folder}/{{00000..00002}}.tar")
    assert caught.value.filename == f"{folder}/00002.tar"

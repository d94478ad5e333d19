"""Tests of the listing, the division and the fingerprints of files."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.pair import Part
from align_keras.corpus.sources.source_files import (
    SourceFile,
    count_os_error,
    fingerprint,
    grouped_files,
    list_files,
    read_whole,
    record_ranges,
)

FOLDER = Part("table", "/", ())


def test_files_are_listed_in_the_order_of_their_names(tmp_path):
    names = [f"{name}.html" for name in ("a b", "Käse 木", "B", "e?f")]
    names += ["sub/x.HTM", "sub/.y.htm", "z.txt"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/a.html").touch()
    (tmp_path / "sub/loop").symlink_to(tmp_path)
    listed_names = [file.name for file in list_files(tmp_path, (".html", ".htm"))]
    assert listed_names == sorted(names[:-2], key=os.fsencode)


@given(st.lists(st.integers(0, 20_000_000), max_size=500))
def test_groups_have_each_file_once_in_order(sizes):
    files = [SourceFile(f"{number:04d}", size, 0) for number, size in enumerate(sizes)]
    groups = [part.files for part in grouped_files(FOLDER, files)]
    grouped_names = [name for group in groups for name in group]
    assert grouped_names == [file.name for file in files]
    size_of_name = {file.name: file.size for file in files}
    for group in groups:
        assert 1 <= len(group) <= 200
        assert len(group) == 1 or sum(map(size_of_name.get, group)) <= 16_000_000


def test_groups_are_full():
    files = [SourceFile(f"{number:04d}", 10, 0) for number in range(401)]
    parts = grouped_files(FOLDER, files)
    assert [len(part.files) for part in parts] == [200, 200, 1]


def test_any_change_of_the_files_changes_the_fingerprint(tmp_path):
    def current_fingerprint():
        return fingerprint(["html"], list_files(tmp_path, ".html"))

    fingerprints = [current_fingerprint()]
    path = tmp_path / "a.html"
    path.write_text("x")
    os.utime(path, ns=(1, 1))
    fingerprints.append(current_fingerprint())
    assert fingerprints[-1] == current_fingerprint()
    path.write_text("xy")
    os.utime(path, ns=(1, 1))
    fingerprints.append(current_fingerprint())
    os.utime(path, ns=(2, 2))
    fingerprints.append(current_fingerprint())
    path.rename(tmp_path / "b.html")
    fingerprints.append(current_fingerprint())
    assert len(set(fingerprints)) == 5
    files = list_files(tmp_path, ".html")
    assert fingerprint(["html"], files) != fingerprint(["folder"], files)


def test_unreadable_files_are_counted(tmp_path, monkeypatch):
    (tmp_path / "big").write_bytes(bytes(11))
    counter = DropCounter()
    limit = "align_keras.corpus.sources.source_files.MAX_PAGE_BYTES"
    monkeypatch.setattr(limit, 11)
    assert read_whole(str(tmp_path / "big"), counter) == bytes(11)
    monkeypatch.setattr(limit, 10)
    for path in ("gone", "big/below", "", "big"):
        assert read_whole(str(tmp_path / path), counter) is None
    assert counter.bad == {"vanished": 2, "unreadable": 1, "oversized": 1}


def test_missing_permissions_are_permanent_only_for_local_files():
    # The credentials of a store can expire during a build.
    counter = DropCounter()
    for path in ("s3://b/a.tar", "/b/a.tar"):
        count_os_error(counter, path, PermissionError(13, "permission denied"))
    assert counter.bad == {"vanished": 1, "unreadable": 1}


@pytest.mark.parametrize("total", [0, 10_000, 10_001])
def test_ranges_have_each_record_once(total):
    parts = record_ranges(FOLDER, "a", total)
    records = [number for part in parts for number in range(part.start, part.stop)]
    assert records == list(range(total))
    assert {part.total for part in parts} == {total}
    assert len(parts) == max(1, -(-total // 10_000))

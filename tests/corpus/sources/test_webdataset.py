"""Tests of tar files from img2dataset, complete and damaged."""

import io
import json
import os
import tarfile
import tracemalloc

import pytest
from PIL import Image

from align_keras.corpus.sources.location import read_location
from align_keras.utils.errors import ImageError
from tests.helpers.source_case import STRANGE_NAME, SourceCase, write_members
from tests.helpers.source_reading import IMG2DATASET, read_source

SHARD = IMG2DATASET / "webdataset/00000.tar"
STORED = [
    ('A "red" cat, seen', "alt", "en", "https://example.org/p"),
    ("Käse auf 木", "title", "de", "https://example.org/q"),
]


class TestWebDataset(SourceCase):
    kind = "webdataset"
    path = "a.tar"
    pairs = [("A cat", "caption", "en"), ("A dog", "caption", "de")]
    images = [b"cat", b"dog"]
    counts_losses = True

    def write(self, folder):
        members = [
            (f"x.y/{STRANGE_NAME.partition('.')[0]}{number}{suffix}", content)
            for number, caption, language in ((0, "cat", "en"), (1, "dog", "de"))
            for suffix, content in (
                (".JPG", caption.encode()),
                (".txt", f"A {caption}".encode()),
                (".json", json.dumps({"language": language}).encode()),
            )
        ]
        write_members(folder / "a.tar", members, format=tarfile.PAX_FORMAT)


def test_shards_of_img2dataset_are_read():
    pairs, counter = read_source(IMG2DATASET / "webdataset")
    assert sorted(pair[1:5] for pair in pairs) == STORED
    with tarfile.open(SHARD) as tar:
        stored = {
            tar.extractfile(member).read()
            for member in tar
            if member.name.endswith(".jpg")
        }
    contents = [read_location(pair.image) for pair in pairs]
    assert set(contents) == stored
    assert Image.open(io.BytesIO(contents[0])).size == (32, 24)
    # One of the downloaded images has no caption.
    assert counter.bad == {"empty caption": 1}


def test_incomplete_samples_are_counted(tmp_path):
    status = {"status": "failed_to_download", "error_message": "404"}
    members = [
        ("a.jpg", b"x"),
        ("a.json", json.dumps({"caption": "by json", "rule": "alt"}).encode()),
        ("b.txt", b"no image"),
        ("c.png", b"x"),
        ("c.json", b"{broken"),
        ("c.txt", b"by text"),
        ("d.jpg", b"x"),
        ("e.json", json.dumps(status).encode()),
        ("f.jpg", b""),
        ("f.txt", b"empty"),
    ]
    pairs, counter = read_source(write_members(tmp_path / "a.tar", members))
    assert [pair.caption for pair in pairs] == [
        "by json",
        "by text",
        "empty",
    ]
    assert counter.bad == {"missing": 1, "empty caption": 1}
    assert counter.filtered == {"not downloaded": 1}
    with pytest.raises(ImageError, match="empty"):
        read_location(pairs[2].image)


def test_a_truncated_shard_has_the_samples_before_its_end(tmp_path):
    content = SHARD.read_bytes()
    path = tmp_path / "a.tar"
    captions = [pair.caption for pair in read_source(SHARD)[0]]
    with tarfile.open(SHARD) as tar:
        ends = [member.offset_data + member.size for member in tar]
    for size in range(0, len(content) - 10_240, 1024):
        path.write_bytes(content[:size])
        pairs, counter = read_source(path)
        reason = "truncated shard" if size else "empty shard"
        assert counter.bad[reason] == 1, size
        # The second member of a sample is its JSON file, which also has the caption.
        sample_count = sum(size >= ends[member] for member in (1, 4))
        assert [pair.caption for pair in pairs] == captions[:sample_count]


def test_a_damaged_header_drops_its_member(tmp_path):
    path = tmp_path / "a.tar"
    content = bytearray(SHARD.read_bytes())
    content[1044:1064] = b"\xff" * 20  # The name of the first file.
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == [STORED[1][0]]
    assert counter.bad["broken record"] >= 1 and counter.bad["missing"] == 1


def test_other_content_than_a_tar_is_counted(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"no tar at all" * 1000)
    pairs, counter = read_source(path)
    assert not pairs and counter.bad == {"truncated shard": 1}
    path.write_bytes(b"no tar at all" * 1000 + bytes(512 * 3 - 13_000 % 512))
    pairs, counter = read_source(path)
    assert not pairs and counter.bad == {"broken record": 1}


def test_a_size_that_is_not_a_number_is_counted(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.txt")
        member.pax_headers = {"GNU.sparse.size": "x0"}
        tar.addfile(member)
    path = tmp_path / "a.tar"
    path.write_bytes(file.getvalue() + SHARD.read_bytes())
    pairs, counter = read_source(path)
    assert len(pairs) == 2 and counter.bad["broken record"] >= 1


@pytest.mark.parametrize("kind", [b"L", b"S", b"D", b"5", "numbers"])
def test_headers_with_huge_sizes_are_broken(tmp_path, kind):
    if kind == "numbers":  # The map of a sparse file.
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        member.size = 1_000_000
        start = member.tobuf(tarfile.PAX_FORMAT) + b"500000\n" + b"1\n" * 499_996
        start += bytes(-len(start) % 512)
    else:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.size = kind, 15 * 10**6
        start = member.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "a.tar"
    path.write_bytes(start + SHARD.read_bytes())
    os.truncate(path, 20 * 10**6 // 512 * 512)
    tracemalloc.start()
    try:
        pairs, counter = read_source(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    # Files and directories of these sizes are skipped with everything in them.
    assert len(pairs) == (0 if kind in (b"0", b"D") else 2)
    assert counter.bad["broken record"] == (kind not in (b"0", b"D", b"5"))


def test_concatenated_tars_are_read(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(SHARD.read_bytes() * 2)
    pairs, counter = read_source(path)
    assert len(pairs) == 4 and not counter.bad

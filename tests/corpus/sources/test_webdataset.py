"""Shards that img2dataset wrote, and what may become of them."""

import io
import json
import os
import shutil
import tarfile
import tracemalloc

import pytest
from PIL import Image

from align_keras.corpus.image import ImageError
from align_keras.corpus.sources import read_location
from tests.helpers.source_reading import IMG2DATASET, STRANGE, read_source

SHARD = IMG2DATASET / "webdataset/00000.tar"
STORED = [
    ('A "red" cat, seen', "alt", "en", "https://example.org/p"),
    ("Käse auf 木", "title", "de", "https://example.org/q"),
]


def write(path, members, **options):
    """Writes a tar; `members` are (name, bytes)."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_shards_of_img2dataset():
    pairs, counter = read_source(IMG2DATASET / "webdataset")
    assert sorted(pair[1:5] for pair in pairs) == STORED
    with tarfile.open(SHARD) as tar:
        stored = {
            tar.extractfile(own).read() for own in tar if own.name.endswith(".jpg")
        }
    contents = [read_location(pair.image) for pair in pairs]
    assert set(contents) == stored
    assert Image.open(io.BytesIO(contents[0])).size == (32, 24)
    assert counter.bad == {"empty caption": 1}  # It had none.


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_of_shards_and_samples(tmp_path, name):
    path = tmp_path / f"{name}.tar"
    keys = [f"x.y/{name.partition('.')[0]}{own}" for own in range(2)]
    members = [
        (key + suffix, content)
        for key in keys
        for suffix, content in ((".JPG", key.encode()), (".txt", b"A cat"))
    ]
    write(path, members, format=tarfile.PAX_FORMAT)
    pairs, counter = read_source(path)
    assert [read_location(pair.image).decode() for pair in pairs] == keys
    assert not counter.bad and not counter.filtered


def test_samples_of_other_forms(tmp_path):
    status = {"status": "failed_to_download", "error_message": "404"}
    members = [
        ("a.jpg", b"x"),
        ("a.json", json.dumps({"caption": "by json", "rule": "alt"}).encode()),
        ("b.txt", b"no picture"),
        ("c.png", b"x"),
        ("c.json", b"{broken"),
        ("c.txt", b"by text"),
        ("d.jpg", b"x"),
        ("e.json", json.dumps(status).encode()),
        ("f.jpg", b""),
        ("f.txt", b"empty"),
    ]
    pairs, counter = read_source(write(tmp_path / "a.tar", members))
    assert [pair.caption for pair in pairs] == [
        "by json",
        "by text",
        "empty",
    ]
    assert counter.bad == {"missing": 1, "empty caption": 1}
    assert counter.filtered == {"not downloaded": 1}
    with pytest.raises(ImageError, match="empty"):
        read_location(pairs[2].image)


def test_every_cut_keeps_the_samples_before_it(tmp_path):
    content = SHARD.read_bytes()
    path = tmp_path / "a.tar"
    whole = [pair.caption for pair in read_source(SHARD)[0]]
    with tarfile.open(SHARD) as tar:
        ends = [own.offset_data + own.size for own in tar]
    for size in range(0, len(content) - 10_240, 256):
        path.write_bytes(content[:size])
        pairs, counter = read_source(path)
        reason = "truncated shard" if size else "empty shard"
        assert counter.bad[reason] == 1, size
        # The JSON, a sample's second member, has the caption too.
        assert [pair.caption for pair in pairs] == whole[: sum(
            size >= ends[own] for own in (1, 4)
        )]  # fmt: skip


def test_garbled_headers_cost_their_members(tmp_path):
    path = tmp_path / "a.tar"
    content = bytearray(SHARD.read_bytes())
    content[1044:1064] = b"\xff" * 20  # The first name, behind its PAX header.
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == [STORED[1][0]]
    assert counter.bad["broken record"] >= 1 and counter.bad["missing"] == 1
    path.write_bytes(b"no tar at all" * 1000)
    pairs, counter = read_source(path)
    assert not pairs and counter.bad == {"truncated shard": 1}
    path.write_bytes(b"no tar at all" * 1000 + bytes(512 * 3 - 13_000 % 512))
    pairs, counter = read_source(path)
    assert not pairs and counter.bad == {"broken record": 1}


def test_a_size_that_is_no_number(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.txt")
        member.pax_headers = {"GNU.sparse.size": "x0"}
        tar.addfile(member)
    path = tmp_path / "a.tar"
    path.write_bytes(file.getvalue() + SHARD.read_bytes())
    pairs, counter = read_source(path)
    assert len(pairs) == 2 and counter.bad["broken record"] >= 1


def test_a_hole_of_a_terabyte_takes_no_time(tmp_path):
    path = tmp_path / "a.tar"
    shutil.copy(SHARD, path)
    os.truncate(path, 10**12 // 512 * 512)
    with open(path, "ab") as file:
        file.write(SHARD.read_bytes())
    pairs, counter = read_source(path)
    assert len(pairs) == 4 and not counter.bad


@pytest.mark.parametrize(
    "kind", [b"L", b"K", b"x", b"g", b"X", b"S", b"D", b"5", b"0", "numbers"]
)
def test_headers_that_claim_much_are_broken(tmp_path, kind):
    if kind == "numbers":  # A map of a sparse file.
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        member.size = 1_000_000
        start = member.tobuf(tarfile.PAX_FORMAT) + b"500000\n" + b"1\n" * 499_996
        start += bytes(-len(start) % 512)
    else:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.size = kind, 6 * 10**9
        start = member.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "a.tar"
    path.write_bytes(start + SHARD.read_bytes())
    os.truncate(path, 7 * 10**9 // 512 * 512)
    tracemalloc.start()
    try:
        pairs, counter = read_source(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    # What a member is said to hold isn't looked at.
    assert len(pairs) == (0 if kind in (b"0", b"D") else 2)
    assert counter.bad["broken record"] == (kind not in (b"0", b"D", b"5"))


def test_joined_tars(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(SHARD.read_bytes() * 2)
    pairs, counter = read_source(path)
    assert len(pairs) == 4 and not counter.bad


def test_a_shard_that_vanishes(tmp_path):
    from align_keras.corpus.drop_counter import DropCounter
    from align_keras.corpus.sources import open_source, read_part

    shutil.copy(SHARD, tmp_path)
    [part] = open_source(str(tmp_path)).parts()
    (tmp_path / SHARD.name).unlink()
    counter = DropCounter()
    assert list(read_part(part, counter)) == []
    assert counter.bad == {"vanished": 1}

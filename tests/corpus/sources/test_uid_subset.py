"""Tests of the subset files of DataComp, which select the records of shards."""

import json
import random
import tracemalloc

import numpy as np
import pytest

from align_keras.corpus.sources.source import open_source
from align_keras.corpus.sources.uid_subset import (
    UID_TYPE,
    UidSubset,
    write_uid_subset,
)
from align_keras.utils.errors import InputError
from tests.helpers.source_files import jpeg, write_tar
from tests.helpers.source_reading import IMG2DATASET, read_source

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def make_uids(count):
    """Returns random uids. The halves of some are equal, or begin with zeros."""
    numbers = random.Random(0)
    uids = [f"{numbers.getrandbits(128):032x}" for _ in range(count - 4)]
    return [*uids, "f" * 32, "0" * 32, uids[0][:16] + "0" * 16, "0" * 16 + uids[0][16:]]


UIDS = make_uids(40)
KEPT = UIDS[::3]


@pytest.fixture
def subset(tmp_path):
    """Subset file of every third uid, written as DataComp describes."""
    path = tmp_path / "files" / "subset.npy"
    path.parent.mkdir()
    halves = [divmod(int(uid, 16), 2**64) for uid in KEPT]
    np.save(path, np.array(sorted(halves), np.dtype("u8,u8")))
    return path


def write_webdataset(folder, uids=tuple(UIDS)):
    rows = []
    for number, uid in enumerate(uids):
        metadata = {} if uid is None else {"uid": uid}
        content = json.dumps(metadata).encode()
        text = f"caption {number}".encode()
        parts = {"jpg": jpeg(number), "txt": text, "json": content}
        rows.append((f"{number:05}", parts))
    write_tar(folder / "00000.tar", rows)
    return f"webdataset:{folder}"


def write_parquet(folder):
    captions = [f"caption {number}" for number in range(len(UIDS))]
    urls = [f"https://example.org/{number}.jpg" for number in range(len(UIDS))]
    table = pyarrow.table({"url": urls, "text": captions, "uid": UIDS})
    folder.mkdir()
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    return f"parquet:{folder}"


def write_tfrecord(folder):
    tf = pytest.importorskip("tensorflow")

    def feature(content):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
        for number, uid in enumerate(UIDS):
            features = {
                "jpg": feature(jpeg(number)),
                "caption": feature(f"caption {number}".encode()),
                "uid": feature(uid.encode()),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return f"tfrecord:{folder}"


@pytest.mark.parametrize(
    "write",
    [
        write_webdataset,
        write_parquet,
        pytest.param(write_tfrecord, marks=pytest.mark.ci),
    ],
)
def test_records_of_the_subset_are_read(write, tmp_path, subset):
    spec = write(tmp_path / "shards")
    all_pairs, _ = read_source(spec)
    assert len(all_pairs) == len(UIDS)
    for name in (spec, spec.partition(":")[2]):
        pairs, counter = read_source(f"{name}?subset={subset}")
        assert pairs == all_pairs[::3]
        assert counter.filtered == {"not in the subset": len(UIDS) - len(KEPT)}
        assert not counter.bad


def test_the_search_agrees_with_a_set(tmp_path):
    uids = make_uids(2_000)
    path = tmp_path / "subset.npy"
    assert write_uid_subset(path, uids[:1_000] * 2) == len(set(uids[:1_000]))
    subset = UidSubset(path)
    assert [uid for uid in uids if uid in subset] == uids[:1_000]
    assert uids[0].upper() in subset and len(subset) == 1_000
    rows = np.load(path)
    assert rows.dtype == np.dtype("u8,u8")
    # DataComp looks uids up with this call.
    keys = np.array([divmod(int(uid, 16), 2**64) for uid in uids[:1_000]], rows.dtype)
    left, right = (np.searchsorted(rows, keys, side) for side in ("left", "right"))
    assert (right - left == 1).all()


def test_a_large_file_is_not_loaded(tmp_path):
    path = tmp_path / "large.npy"
    # A sparse file of 4 GB. All rows but the last are zeros.
    rows = np.lib.format.open_memmap(path, "w+", UID_TYPE, (1 << 28,))
    rows[-1] = (1, 2)
    rows.flush()
    del rows
    tracemalloc.start()
    subset = UidSubset(path)
    assert f"{1:016x}{2:016x}" in subset and f"{1:016x}{1:016x}" not in subset
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_content_of_the_file_is_part_of_the_fingerprint(tmp_path, subset):
    spec = write_webdataset(tmp_path / "shards")
    whole = open_source(spec).fingerprint()
    first = open_source(f"{spec}?subset={subset}").fingerprint()
    assert first != whole
    assert open_source(f"{spec}?subset={subset}").fingerprint() == first
    write_uid_subset(subset, [*KEPT, UIDS[1]])
    second = open_source(f"{spec}?subset={subset}").fingerprint()
    assert second != first
    write_uid_subset(subset, KEPT)
    assert open_source(f"{spec}?subset={subset}").fingerprint() == first


ROWS = np.array([(0, 5), (1, 2), (1, 3), (4, 0)], UID_TYPE)


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(4, dtype=np.uint64),
        ROWS.reshape(2, 2),
        np.array([{}]),
        ROWS[[0, 2, 1, 3]],
    ],
)
def test_other_arrays_are_refused(tmp_path, rows):
    spec = write_webdataset(tmp_path / "shards")
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(InputError, match="a.npy") as caught:
        open_source(f"{spec}?subset={tmp_path / 'a.npy'}")
    assert "\n" not in str(caught.value)


def test_unsorted_rows_at_the_end_of_a_chunk_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("align_keras.corpus.sources.uid_subset.ROWS_PER_CHUNK", 2)
    path = tmp_path / "a.npy"
    np.save(path, ROWS)
    digest = UidSubset(path).check()
    for order, row in (([0, 2, 1, 3], 2), ([0, 1, 3, 2], 3), ([1, 0, 2, 3], 1)):
        np.save(path, ROWS[order])
        with pytest.raises(InputError, match=f"row {row}"):
            UidSubset(path).check()
    monkeypatch.undo()
    np.save(path, ROWS)
    assert UidSubset(path).check() == digest


def test_other_files_are_refused(tmp_path, subset):
    spec = write_webdataset(tmp_path / "shards")
    for content in (b"uid\n0000", subset.read_bytes()[:-5]):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match="a.npy"):
            open_source(f"{spec}?subset={tmp_path / 'a.npy'}")
    with pytest.raises(FileNotFoundError, match="nowhere.npy"):
        open_source(f"{spec}?subset={tmp_path / 'nowhere.npy'}")


@pytest.mark.parametrize("form", ["webdataset", "parquet", "tfrecord"])
def test_shards_without_uids_are_refused(form, subset):
    source = f"{form}:{IMG2DATASET / form}?subset={subset}"
    with pytest.raises(InputError, match="uid"):
        read_source(source)


def test_single_records_without_a_uid_are_counted(tmp_path, subset):
    uids = [None, "not hexadecimal", UIDS[0], "", "0x12", UIDS[0] + "0", UIDS[1]]
    spec = write_webdataset(tmp_path / "shards", uids)
    pairs, counter = read_source(f"{spec}?subset={subset}")
    assert [pair.caption for pair in pairs] == ["caption 2"]
    assert counter.bad == {"no uid": 5}
    assert counter.filtered == {"not in the subset": 1}


def test_other_kinds_refuse_a_subset(tmp_path, subset):
    (tmp_path / "a.csv").write_text("image,caption\na.png,x\n")
    with pytest.raises(InputError, match="subset"):
        open_source(f"{tmp_path / 'a.csv'}?subset={subset}")


def test_wrong_uids_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="no uid"):
        write_uid_subset(tmp_path / "a.npy", ["1", "no uid"])
    with pytest.raises(OverflowError):
        write_uid_subset(tmp_path / "a.npy", ["1", "f" * 33])
    assert list(tmp_path.iterdir()) == []

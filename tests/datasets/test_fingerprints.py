"""Tests of the fingerprints of pairs and of the changes that they detect."""

import json
import shutil

import pytest
from PIL import Image

from align_keras.datasets import open_corpus, open_sources
from align_keras.datasets.fingerprints import pairs_fingerprint
from align_keras.datasets.mixture import Mixture
from tests.helpers.small_run import write_pairs
from tests.helpers.source_files import samples, write_tar


def build(table, data):
    return open_corpus("pairs", pairs=table, data_dir=data)


@pytest.fixture
def table(tmp_path):
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def fingerprint(table, tmp_path):
    return pairs_fingerprint(build(table, tmp_path / "data"), "train")


def rewrite(table, change):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    table.write_text("".join(f"{json.dumps(row)}\n" for row in change(rows)))


def rotated(rows):
    captions = [row["caption"] for row in rows]
    return [
        row | {"caption": caption}
        for row, caption in zip(rows, captions[1:] + captions[:1], strict=True)
    ]


@pytest.mark.parametrize("change", [rotated, lambda rows: rows[:20]])
def test_captions_and_rows_change_the_fingerprint(table, tmp_path, fingerprint, change):
    rewrite(table, change)
    assert pairs_fingerprint(build(table, tmp_path / "data"), "train") != fingerprint


def test_pixels_change_the_fingerprint(table, tmp_path, fingerprint):
    for path in table.parent.glob("*.png"):
        Image.new("RGB", (48, 48), "white").save(path)
    assert pairs_fingerprint(build(table, tmp_path / "data"), "train") != fingerprint


def test_paths_and_times_of_the_files_do_not_change_the_fingerprint(
    table, tmp_path, fingerprint
):
    copy = shutil.copytree(
        table.parent, tmp_path / "copy", copy_function=shutil.copyfile
    )
    builder = build(copy / table.name, tmp_path / "other")
    assert pairs_fingerprint(builder, "train[:50%]") == fingerprint
    assert pairs_fingerprint(builder, "test") != fingerprint
    both = pairs_fingerprint(builder, "train+test")
    assert pairs_fingerprint(builder, "all") == both != fingerprint


def test_a_corpus_without_a_stored_fingerprint_has_the_same_fingerprint(
    table, tmp_path, fingerprint
):
    builder = build(table, tmp_path / "data")
    metadata = dict(builder.info.metadata)
    stored = metadata.pop("fingerprints")
    assert set(stored) == {"train", "test"}
    path = tmp_path / "data" / "user_pairs"
    (file,) = path.rglob("metadata.json")
    file.write_text(json.dumps(metadata))
    builder = open_corpus(str(file.parent))
    assert "fingerprints" not in builder.info.metadata
    assert pairs_fingerprint(builder, "train") == fingerprint


def test_the_fingerprint_of_shards_depends_on_their_checksums(
    table, tmp_path, fingerprint
):
    builder = build(table, tmp_path / "data")
    folder = shutil.copytree(builder.data_path, tmp_path / "shards")
    (folder / "metadata.json").write_text("{}")
    names = sorted(path.name for path in folder.glob("*tfrecord*"))
    fingerprints = []
    for checksum in ("a", "a", "b"):
        shards = [
            {"file": name, "bytes": (folder / name).stat().st_size, "sha256": checksum}
            for name in names
        ]
        (folder / "index.json").write_text(json.dumps({"shards": shards}))
        fingerprints.append(pairs_fingerprint(open_corpus(str(folder)), "train"))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_fingerprint_of_sources_depends_on_their_captions(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = samples(0, 6)
    fingerprints = []
    for name, captions in (("a", [0, 1, 2, 3, 4, 5]), ("b", [1, 2, 3, 4, 5, 0])):
        changed = [
            (key, parts | {"txt": b"caption %d" % caption})
            for (key, parts), caption in zip(rows, captions, strict=True)
        ]
        write_tar(tmp_path / name / "0.tar", changed)
        source = open_sources(str(tmp_path / name))
        fingerprints.append(pairs_fingerprint(source, "train"))
    assert fingerprints[0] != fingerprints[1]
    shutil.copytree(tmp_path / "a", tmp_path / "c", copy_function=shutil.copyfile)
    copy = open_sources(str(tmp_path / "c"))
    assert pairs_fingerprint(copy, "train") == fingerprints[0]


def test_the_fingerprint_of_a_mixture_depends_on_its_members(
    table, tmp_path, fingerprint
):
    builder = build(table, tmp_path / "data")
    mixture = pairs_fingerprint(Mixture({"a": builder, "b": builder}), "train")
    assert mixture == pairs_fingerprint(Mixture({"a": builder, "b": builder}), "train")
    assert mixture != pairs_fingerprint(Mixture({"a": builder}), "train")

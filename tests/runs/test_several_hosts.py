"""A corpus, embeddings, an index and evaluations by one Dask cluster on three hosts."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import drawings as drawn
from tests.helpers import small_corpus
from tests.helpers.clusters import ROOT, Cluster
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.hosts import hosts
from tests.helpers.small_run import write_pairs

pytestmark = [pytest.mark.release, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler on the first host, where commands run too; workers on two others."""
    pytest.importorskip("distributed")
    data = {"TFDS_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with hosts(3) as several:
        made = Cluster("dask", several.addresses, several.command_prefix, **data)
        with made as cluster:
            yield cluster


def run(cluster, *arguments):
    """Runs a command on the first host, by the cluster; returns what it prints."""
    words = [*cluster.command_prefix(cluster.hosts[0]), sys.executable]
    command = ["-m", "align_keras.cli.main", *arguments, "--engine", cluster.engine]
    done = subprocess.run(
        [*words, *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def here(*arguments):
    command = [sys.executable, "-m", "align_keras.cli.main", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_corpus_with_near_duplicates_though_a_host_is_lost(
    cluster, tmp_path, small_model
):
    pytest.importorskip("cv2")
    sources = small_corpus.write_sources(tmp_path)
    override = "--params_override=duplicates.mode=embedding,"
    override += f"duplicates.inside_corpus=true,duplicates.encoder={small_model}"
    local, there = tmp_path / "out1", tmp_path / "out2"
    build = small_corpus.arguments("build", sources, local, "--workers=1", override)
    here(*build)

    def lose_a_host():
        while not list(there.glob("stages/*/tasks/*/*.json")):
            time.sleep(0.02)
        cluster.kill(cluster.workers[0])

    killer = threading.Thread(target=lose_a_host)
    killer.start()
    run(cluster, *small_corpus.arguments("build", sources, there, override))
    killer.join()
    cluster.start_worker(cluster.hosts[1])
    names = ("vocabulary.txt", "stages/*/done.json", "web_pairs/1.0.0/*")
    compared = 0
    for name in names:
        for path in local.glob(name):
            found = (there / path.relative_to(local)).read_bytes()
            expected = path.read_bytes()
            compared += 1
            assert found.replace(os.fsencode(there), os.fsencode(local)) == expected
    assert compared > 8


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in COLORS:
        for size in range(20, 28):
            data = image_bytes(color, (size, 24))
            (folder / f"{color}{size}.png").write_bytes(data)
    (folder / "broken.png").write_bytes(b"junk")
    (folder / "copy.png").write_bytes((folder / "red20.png").read_bytes())
    return folder


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_bulk_embeddings(cluster, photos, tmp_path, form):
    options = ["--model", GOLDEN, "--format", form, "--rows-per-file", 5]
    here("embed", photos, "--to", tmp_path / "a", *options)
    said = run(cluster, "embed", photos, "--to", tmp_path / "b", *options)
    assert "26 rows in 6 files" in said and "1 without an embedding" in said
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes(), name


def test_an_index(cluster, photos, tmp_path):
    from align_keras.search import Index

    def found(folder):
        index = Index.open(folder)
        hits = index.query("red", k=30)
        vectors = np.asarray(index.store.vectors())
        return [(hit.path, hit.score) for hit in hits], sorted(map(bytes, vectors))

    # One image alone first: what an index has isn't embedded again.
    for folder, command in ((tmp_path / "a", here), (tmp_path / "b", None)):
        options = ["--to", folder, "--model", GOLDEN]
        ran = command or (lambda *given: run(cluster, *given))
        said = ran("index", photos, *options)
        assert "25 added" in said and "1 left out: unreadable" in said
        (photos / "red20.png").rename(photos / "moved.png")
        (photos / "blue21.png").unlink()
        said = ran("index", photos, *options)
        assert "0 added, 0 changed, 1 renamed, 1 gone" in said
        (photos / "moved.png").rename(photos / "red20.png")
        (photos / "blue21.png").write_bytes(image_bytes("blue", (21, 24)))
    assert found(tmp_path / "a") == found(tmp_path / "b")
    assert not (tmp_path / "b" / ".tasks").exists()


def test_evaluations(cluster, tmp_path, small_model):
    pairs = write_pairs(tmp_path / "pairs")
    about = ["evaluate", "retrieval", "--model", small_model, "--data", pairs, "--json"]
    local, there = tmp_path / "cache1", tmp_path / "cache2"
    expected = json.loads(here(*about, "--cache", local))
    found = json.loads(run(cluster, *about, "--cache", there))
    assert found == expected
    names = [path.relative_to(local) for path in local.rglob("embeddings")]
    assert len(names) == 2
    for name in names:
        assert (there / name).read_bytes() == (local / name).read_bytes()


def test_trials(cluster, tmp_path, drawings, small_model):
    about = ["evaluate", "fine_grained", "--model", small_model, "--data", drawings]
    about += ["--params_override", drawn.HEAD, "--json", "--results"]
    expected = json.loads(here(*about, tmp_path / "a"))["metrics"]
    found = json.loads(run(cluster, *about, tmp_path / "b"))["metrics"]
    # Sums in another order, by another number of threads: an image may change sides.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.1)
    results = sorted(path.name for path in (tmp_path / "a").glob("*.json"))
    assert results == sorted(path.name for path in (tmp_path / "b").iterdir())

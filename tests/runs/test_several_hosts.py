"""Tests of corpora, embeddings, indexes and evaluations on a Dask cluster."""

import functools
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
    """Dask cluster with a scheduler on the first of three hosts and two workers.

    Commands run on the first host too.
    """
    pytest.importorskip("distributed")
    data = {"TFDS_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with hosts(3) as several:
        with Cluster(
            "dask", several.addresses, several.command_prefix, **data
        ) as dask_cluster:
            yield dask_cluster


def run_on_cluster(cluster, *arguments):
    """Runs a command on the first host with the cluster, and returns its output."""
    prefix = [*cluster.command_prefix(cluster.hosts[0]), sys.executable]
    command = ["-m", "align_keras.cli.main", *arguments, "--engine", cluster.engine]
    process = subprocess.run(
        [*prefix, *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def run_locally(*arguments):
    command = [sys.executable, "-m", "align_keras.cli.main", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_a_corpus_is_built_although_a_host_is_lost(cluster, tmp_path, small_model):
    pytest.importorskip("cv2")
    sources = small_corpus.write_sources(tmp_path)
    override = "--params_override=duplicates.mode=embedding,"
    override += f"duplicates.inside_corpus=true,duplicates.encoder={small_model}"
    local = tmp_path / "local"
    remote = tmp_path / "remote"
    build = small_corpus.arguments("build", sources, local, "--workers=1", override)
    run_locally(*build)

    def lose_a_host():
        while not list(remote.glob("stages/*/tasks/*/*.json")):
            time.sleep(0.02)
        cluster.kill(cluster.workers[0])

    killer = threading.Thread(target=lose_a_host)
    killer.start()
    run_on_cluster(cluster, *small_corpus.arguments("build", sources, remote, override))
    killer.join()
    cluster.start_worker(cluster.hosts[1])
    names = ("vocabulary.txt", "stages/*/done.json", "web_pairs/1.0.0/*")
    compared_files = 0
    for name in names:
        for path in local.glob(name):
            actual = (remote / path.relative_to(local)).read_bytes()
            expected = path.read_bytes()
            compared_files += 1
            assert actual.replace(os.fsencode(remote), os.fsencode(local)) == expected
    assert compared_files > 8


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


def test_bulk_embeddings_equal_local_embeddings(cluster, photos, tmp_path):
    options = ["--model", GOLDEN, "--rows-per-file", 5]
    run_locally("embed", photos, "--to", tmp_path / "a", *options)
    output = run_on_cluster(cluster, "embed", photos, "--to", tmp_path / "b", *options)
    assert "26 rows in 6 files" in output
    assert "1 without an embedding" in output
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes(), name


def test_an_index_equals_a_local_index(cluster, photos, tmp_path):
    from align_keras.search import Index

    def read_index(folder):
        index = Index.open(folder)
        hits = index.query("red", k=30)
        vectors = np.asarray(index.store.vectors.rows())
        return [(hit.path, hit.score) for hit in hits], sorted(map(bytes, vectors))

    run = functools.partial(run_on_cluster, cluster)
    for folder, command in ((tmp_path / "a", run_locally), (tmp_path / "b", run)):
        options = ["--index", folder, "--model", GOLDEN]
        output = command("index", photos, *options)
        assert "25 added" in output
        assert "1 left out: unreadable" in output
        (photos / "red20.png").rename(photos / "moved.png")
        (photos / "blue21.png").unlink()
        output = command("index", photos, *options)
        assert "0 added, 0 changed, 1 renamed, 1 removed" in output
        (photos / "moved.png").rename(photos / "red20.png")
        (photos / "blue21.png").write_bytes(image_bytes("blue", (21, 24)))
    assert read_index(tmp_path / "a") == read_index(tmp_path / "b")
    assert not (tmp_path / "b" / ".tasks").exists()


def test_an_evaluation_equals_a_local_evaluation(cluster, tmp_path, small_model):
    pairs = write_pairs(tmp_path / "pairs")
    command = ["evaluate", "retrieval", "--model", small_model, "--data", pairs]
    command.append("--json")
    local = tmp_path / "local"
    remote = tmp_path / "remote"
    expected = json.loads(run_locally(*command, "--cache", local))
    actual = json.loads(run_on_cluster(cluster, *command, "--cache", remote))
    assert actual == expected
    names = [path.relative_to(local) for path in local.rglob("embeddings")]
    assert len(names) == 2
    for name in names:
        assert (remote / name).read_bytes() == (local / name).read_bytes()


def test_trials_equal_local_trials(cluster, tmp_path, drawings, small_model):
    command = ["evaluate", "fine_grained", "--model", small_model, "--data", drawings]
    command += ["--params_override", drawn.HEAD, "--json", "--results"]
    expected = json.loads(run_locally(*command, tmp_path / "a"))["metrics"]
    actual = json.loads(run_on_cluster(cluster, *command, tmp_path / "b"))["metrics"]
    # Another number of threads changes the order of sums, which may change the
    # prediction for an image.
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=0.1)
    results = sorted(path.name for path in (tmp_path / "a").glob("*.json"))
    assert results == sorted(path.name for path in (tmp_path / "b").iterdir())

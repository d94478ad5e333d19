"""Processes that are killed or cannot write leave no damaged files.

The tests send real signals to real processes. Kills of corpus builds are in
`tests/cli/test_corpus_kill.py`, and kills of training runs in
`tests/training/test_kill.py`.
"""

import ctypes
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from align_keras.protocols.embedding_cache import EmbeddingCache
from align_keras.search import Index

ROOT = pathlib.Path(__file__).parents[1]
# Number of kills.
COUNT = pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, marks=pytest.mark.ci),
        pytest.param(60, marks=pytest.mark.release),
    ],
)


def start(script, *arguments, **options):
    """Starts a Python script, and waits until it prints "ready".

    Args:
        script: Code of the script.
        *arguments: Arguments of the script.
        **options: Options of `subprocess.Popen`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def kill_after(process, seconds):
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def embed(text):
    """Returns the embedding of a text such as "text 5"."""
    return np.full(64, float(text.split()[1]), np.float32)


CACHE = """
import sys
import numpy as np
from align_keras.protocols.embedding_cache import EmbeddingCache
texts = [f"text {number}" for number in range(1_000_000)]
encode = lambda texts: np.array([[float(t.split()[1])] * 64 for t in texts], np.float32)
print("ready", flush=True)
EmbeddingCache(sys.argv[1], encode, chunk=7)(texts)
"""


@COUNT
def test_a_killed_process_loses_no_cached_embeddings(tmp_path, count):
    source, num_cached = random.Random(0), 0
    for _ in range(count):
        kill_after(start(CACHE, tmp_path), source.uniform(0, 0.2))
        encoded_texts = []

        def encode(texts, encoded_texts=encoded_texts):
            encoded_texts.extend(texts)
            return np.array([embed(text) for text in texts])

        texts = [f"text {number}" for number in range(num_cached + 10)]
        embeddings = EmbeddingCache(tmp_path, encode)(texts)
        np.testing.assert_array_equal(embeddings, [embed(text) for text in texts])
        # Texts that were cached before the kill are not encoded again.
        assert len(encoded_texts) <= 10
        num_cached = (tmp_path / "digests").stat().st_size // 20
    assert num_cached > 50 or count < 10


INDEX = """
import sys
import numpy as np
from align_keras.search import Index
print("ready", flush=True)
for version in range(1_000_000):
    rows = np.full((200, 32), 1.0 + version % 9)
    ids = [f"{version % 9} {row}" for row in range(len(rows))]
    images = [b"\\x89PNG"] * len(rows)
    Index.from_embeddings(rows, ids, images=images, folder=sys.argv[1])
"""


@COUNT
def test_a_killed_process_leaves_a_complete_index(tmp_path, capsys, count):
    source, folder, num_reports = random.Random(0), tmp_path / "index", 0
    rows = np.ones((2, 2))
    Index.from_embeddings(rows, ["0 a", "0 b"], folder=folder)
    for _ in range(count):
        kill_after(start(INDEX, folder), source.uniform(0, 0.3))
        has_temporary_files = any(
            path.suffix in (".tmp", ".old") for path in tmp_path.iterdir()
        )
        capsys.readouterr()
        if folder.exists():
            index = Index.open(folder)
            versions = {hit.path.split()[0] for hit in index.latest(k=len(index))}
            assert len(versions) == 1 and index.check() == len(index)
            assert (index.store.vectors.rows() == 1.0 + float(versions.pop())).all()
            index.store.close()
        Index.from_embeddings(rows, ["0 a", "0 b"], folder=folder)
        is_reported = "interrupted" in capsys.readouterr().err
        assert is_reported == has_temporary_files
        num_reports += is_reported
        assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert num_reports or count < 10


EXPORT = """
import sys
from align_keras.cli.main import main
import tensorflow, keras_hub, tensorflow_text
print("ready", flush=True)
sys.exit(main(["export", "--model", sys.argv[1], "--to", sys.argv[2]]))
"""


@pytest.mark.release
def test_a_killed_export_is_repeated(tmp_path):
    from tests.helpers.small import small_align

    model, target = tmp_path / "model", tmp_path / "served" / "export"
    small_align().save_to_preset(model)
    source = random.Random(0)
    for _ in range(3):
        process = start(EXPORT, model, target)
        deadline = time.monotonic() + 120
        while not list(target.parent.glob(".export.*.tmp")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        kill_after(process, source.uniform(0, 2))
        assert not target.exists()
    process = start(EXPORT, model, target)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert f"removing temporary files of an interrupted write of {target}" in error
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    assert (target / "align" / "1" / "saved_model.pb").exists()


def obey_permissions():
    """Removes the capability to ignore file permissions from this process.

    Otherwise root can write everywhere.
    """
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


READ_ONLY = """
import pathlib, sys
from align_keras.cli.main import main
from align_keras.protocols.embedding_cache import EmbeddingCache
from align_keras.search import Index
import numpy as np
print("ready", flush=True)
folder = pathlib.Path(sys.argv[1])
assert len(Index.open(folder / "index").query(np.eye(2)[0], 2)) == 2
for write in (
    lambda: Index.from_embeddings(np.eye(2), ["a", "b"], folder=folder / "index"),
    lambda: EmbeddingCache(folder / "cache", len)(["text"]),
):
    try:
        write()
        raise SystemExit("a file was written to a read-only folder")
    except PermissionError:
        pass
run = ["--experiment=quickstart_icons", f"--model_dir={folder}"]
retrieval = ["retrieval", "--model=align_nano", "--data=stamps"]
for arguments in (
    ["train", *run],
    ["convert", "hf", str(folder), f"--to={folder}/new"],
    ["evaluate", *retrieval, f"--cache={folder}/cache"],
    ["evaluate", *retrieval, f"--html={folder}/page.html"],
):
    assert main(arguments) == 1, arguments
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities of Linux")
def test_a_read_only_folder_gives_one_line_errors(tmp_path):
    folder = tmp_path / "run"
    (folder / "cache").mkdir(parents=True)
    Index.from_embeddings(np.eye(2), ["a", "b"], folder=folder / "index")
    before = sorted(folder.rglob("*"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    process = start(READ_ONLY, folder, preexec_fn=obey_permissions)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0, error
    lines = error.splitlines()
    assert len(lines) == 4 and all("error: " in line for line in lines), error
    reasons = ("permission denied", "can't be written to")
    for line in lines:
        assert any(reason in line.lower() for reason in reasons), error
    assert sorted(folder.rglob("*")) == before
    folder.chmod(0o755)

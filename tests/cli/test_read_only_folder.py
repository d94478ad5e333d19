"""Commands and functions that cannot write to a folder."""

import ctypes
import sys

import numpy as np
import pytest

from align_keras.search import Index
from tests.helpers.kills import start


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
    reasons = ("permission denied", "be written to")
    for line in lines:
        assert any(reason in line.lower() for reason in reasons), error
    assert sorted(folder.rglob("*")) == before
    folder.chmod(0o755)

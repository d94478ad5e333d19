"""Killed processes leave a complete index."""

import random

import numpy as np

from align_keras.search import Index
from tests.helpers.kills import COUNT, kill_after, start

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

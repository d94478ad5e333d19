"""The retrieval benchmark measures all cases and reaches a high recall."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_case_is_measured(tmp_path):
    command = [
        sys.executable,
        "tools/benchmarks/bench_retrieval.py",
        "--images",
        "30",
    ]
    command += ["--dimension", "2048", "--folder", str(tmp_path)]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    header, *rows = process.stdout.splitlines()
    assert [row.split()[:3] for row in rows] == [
        ["i2t", "30", "150"],
        ["t2i", "150", "30"],
        ["t2t", "150", "150"],
        ["i2t", "30", "300"],
        ["i2t", "30", "600"],
    ]
    # The embeddings of thirty images are far apart in 2,048 dimensions.
    assert all(float(row.split()[-1]) > 90 for row in rows if row[:3] != "t2t")
    assert not list(tmp_path.iterdir())

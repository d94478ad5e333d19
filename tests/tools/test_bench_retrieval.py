"""The retrieval benchmark runs, and what it measures finds the right answers."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_runs(tmp_path):
    command = [
        sys.executable,
        "tools/benchmarks/bench_retrieval.py",
        "--images",
        "30",
    ]
    command += ["--dimension", "2048", "--folder", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    header, *rows = run.stdout.splitlines()
    assert [row.split()[:3] for row in rows] == [
        ["i2t", "30", "150"],
        ["t2i", "150", "30"],
        ["t2t", "150", "150"],
        ["i2t", "30", "300"],
        ["i2t", "30", "600"],
    ]
    # In so many dimensions a picture stands out among thirty.
    assert all(float(row.split()[-1]) > 90 for row in rows if row[:3] != "t2t")
    assert not list(tmp_path.iterdir())

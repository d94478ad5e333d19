"""The benchmark of nearest neighbors runs on small galleries."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "benchmarks" / "bench_knn.py"


@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_query_finds_its_source_row(tmp_path):
    command = [sys.executable, str(TOOL), "--gallery", "300", "900", "--queries", "20"]
    command += ["--dimension", "16", "--k", "3", "--folder", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    heading, *rows = process.stdout.splitlines()
    assert heading.split()[:3] == ["gallery", "queries", "seconds"]
    assert [row.split()[0] for row in rows] == ["300", "900"]
    assert all(row.split()[1] == "20" and row.endswith("100.0%") for row in rows)
    # The galleries were deleted.
    assert not list(tmp_path.iterdir())

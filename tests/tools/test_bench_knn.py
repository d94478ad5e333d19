import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "benchmarks" / "bench_knn.py"


@pytest.mark.release
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_measures_each_gallery_and_finds_every_query_again(tmp_path):
    command = [sys.executable, str(TOOL), "--gallery", "300", "900", "--queries", "20"]
    command += ["--dimension", "16", "--k", "3", "--folder", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    heading, *rows = answer.stdout.splitlines()
    assert heading.split()[:3] == ["gallery", "queries", "seconds"]
    assert [row.split()[0] for row in rows] == ["300", "900"]
    assert all(row.split()[1] == "20" and row.endswith("100.0%") for row in rows)
    assert not list(tmp_path.iterdir())  # The galleries are gone.

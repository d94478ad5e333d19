"""The benchmark of near duplicates prints recall for each kind of copy."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "benchmarks" / "bench_duplicates.py"


@pytest.mark.release
@pytest.mark.skipif(
    not pathlib.Path("/usr/share/tuxpaint/stamps").exists(),
    reason="needs tuxpaint-stamps-default",
)
def test_recall_is_printed_for_each_kind_of_copy():
    command = [sys.executable, str(TOOL), "--count", "12", "--modes", "hash"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [row.split(" | ") for row in process.stdout.splitlines() if "recall" in row]
    recall = {row[0].removeprefix("| recall, "): row[1:] for row in rows}
    assert {"half size", "flipped", "watermark", "10 % cropped", "all"} <= set(recall)
    shares = [float(cell.strip("%| ")) for cell in recall["flipped"]]
    assert len(shares) == 3 and shares == sorted(shares)
    # Plain images have no hash, so their copies are not found.
    assert shares[-1] > 50
    assert "originals dropped in error" in process.stdout

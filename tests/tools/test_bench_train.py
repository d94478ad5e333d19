"""The training benchmark prints its table and measures the smallest model."""

import pathlib
import subprocess
import sys

import pytest

from tests.helpers.oracle_process import needs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "benchmarks"


def test_the_table_has_medians_and_their_ratios(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_train

    turns = {
        ("train", bench_train.REFERENCE): [[0.4, 0.8], [9.0, 0.9], [0.3, 0.7]],
        ("train", "keras float32"): [[0.2, 0.1], [0.1, 0.2], [7.0, 8.0]],
        ("image", "keras float32"): [[0.5, 0.5]],
    }
    rows = bench_train.table(turns, "b0@128", batch_size=32).splitlines()[2:]
    assert rows == [
        "| b0@128 | train | torch channels_last | 80.0 | 400 | 800 | 1.00 | 1.00 |",
        "| b0@128 | train | keras float32 | 160.0 | 200 | 200 | 2.00 | 4.00 |",
        "| b0@128 | image | keras float32 | 64.0 | 500 | 500 |  |  |",
    ]


@pytest.mark.release
@needs("torch", "transformers", "litert_quantizer")
def test_all_contenders_are_measured():
    contenders = ["torch channels_last", "keras float32", "keras litert_int8"]
    command = [
        sys.executable,
        "tools/benchmarks/bench_train.py",
        "--architectures",
        "nano@32",
    ]
    command += ["--contenders", *contenders]
    # Fewer images do not calibrate the int8 ranges of a random encoder.
    command += ["--rounds", "1", "--batch-size", "32"]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    rows = process.stdout.splitlines()
    # torch and Keras have three measures. The int8 runtime only embeds images.
    assert len(rows) == 2 + 2 * 3 + 1
    assert all(row.startswith("| nano@32 |") for row in rows[2:])

"""Test that replicas, ghost batches and micro-batches make the update of one device."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "helpers" / "updates_script.py"


@pytest.mark.release
@pytest.mark.timeout(3600)  # Half an hour on a slow and busy machine.
@pytest.mark.parametrize("count", [1, 2, 4])
def test_updates_equal_those_of_one_device(count):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.strip().splitlines()[-1])
    masks, overflow = result.pop("masks", None), result.pop("overflow", None)
    assert result.pop("moved") > 1e-2
    assert result
    # float32 is summed in another order, over one or three steps. Batch normalization
    # of two rows increases the difference.
    limits = {"one": 1e-6, "micro": 1e-5}
    for name, difference in result.items():
        assert difference < limits.get(name.split()[0].split("_")[0], 2e-6), name
    if count == 1:
        return
    # The dropout masks differ between replicas and between steps.
    assert masks["between_replicas"] > 1e-3
    assert masks["between_steps"] > 1e-3
    assert all(counter == 1 for _, counter in masks["seeds"])
    # If a gradient overflows on one replica, no replica is updated. The next step
    # updates all replicas by the unscaled sum of the gradients.
    step = 0.1 * 4.0 * count / 4.0
    expected = [1.0] * count + [1.0 - step] * count
    assert overflow["values"] == pytest.approx(expected)
    assert overflow["scale"] == 4.0

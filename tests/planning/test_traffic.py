"""Comparison of planned network traffic with bytes on the loopback interface."""

import json
import pathlib

import pytest

from align_keras.planning.step_plan import plan_step
from tests.helpers.workers import ROOT, start_workers, wait

SCRIPT = ROOT / "tests" / "planning" / "traffic_script.py"
SMALL = (
    "task.model.image_encoder.image_size=32,"
    "task.model.image_encoder.width_coefficient=0.25,"
    "task.model.image_encoder.depth_coefficient=0.3,"
    "task.model.image_encoder.num_stages=3,"
    "task.model.text_encoder.variant=bert_tiny,"
    "task.model.text_encoder.num_layers=1,"
    "task.model.text_encoder.sequence_length=8,"
    "task.model.text_encoder.vocabulary_size=200,"
)
# Relative tolerance of bytes. Workers also send names of tensors, acknowledgements and
# heartbeats.
TOLERANCE = 0.2


@pytest.mark.release
@pytest.mark.skipif(
    not pathlib.Path("/sys/class/net/lo/statistics/rx_bytes").exists(),
    reason="the system does not count the bytes of the loopback interface",
)
@pytest.mark.parametrize(
    "overrides, largest",
    [
        (
            "task.train_data.global_batch_size=8,"
            "task.model.text_encoder.hidden_dim=512",
            "summed gradients of weights",
        ),
        (
            "task.train_data.global_batch_size=256,"
            "task.model.projection_dim=1280,"
            "task.model.text_encoder.hidden_dim=16,"
            "task.model.text_encoder.intermediate_dim=32",
            "summed gradients of embeddings",
        ),
    ],
)
def test_workers_receive_the_planned_bytes(tmp_path, overrides, largest):
    from align_keras.config import load_config
    from align_keras.planning.run_plan import run_sizes

    overrides = SMALL + overrides
    planned = plan_step(run_sizes(load_config(params_override=overrides), 2)).traffic
    assert max(planned, key=planned.get) == largest
    arguments = [str(SCRIPT), str(tmp_path / "run"), overrides]
    wait(start_workers(arguments, tmp_path), tmp_path)
    measured = json.loads((tmp_path / "worker_0.out").read_text().splitlines()[-1])
    assert measured == pytest.approx(sum(planned.values()), rel=TOLERANCE)

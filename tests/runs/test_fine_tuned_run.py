"""Test of training from the encoders of another run, as experiments/finetune_*.yaml."""

import json

import numpy as np
import pytest

from align_keras.cli.main import main
from tests.helpers.small_run import SMALL, write_pairs


@pytest.mark.release
def test_fine_tuning_starts_from_the_encoders_of_a_run(tmp_path, capsys):
    from align_keras.models import ALIGN

    pairs = write_pairs(tmp_path / "pairs")
    data = ",".join(
        f"task.{section}.corpus=pairs,task.{section}.pairs={pairs},"
        f"task.{section}.tfds_data_dir={tmp_path / 'data'}"
        for section in ("train_data", "validation_data")
    )

    def train(name, *arguments):
        run = tmp_path / name
        overrides = [f"--params_override={SMALL},{data}", *arguments]
        code = main(["train", f"--model_dir={run}", "--json", *overrides])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return ALIGN.from_preset(run), json.loads(captured.out)

    source, metrics = train("pretrained")
    rate = "trainer.optimizer_config.learning_rate.linear.initial_learning_rate"
    tuned, tuned_metrics = train(
        "fine_tuned",
        f"--image-weights={tmp_path / 'pretrained'}",
        f"--text-weights={tmp_path / 'pretrained'}",
        "--params_override=trainer.train_steps=2,trainer.checkpoint_interval=2,"
        "trainer.validation_interval=2,trainer.optimizer_config.warmup.type=null,"
        f"{rate}=1e-5,trainer.seed=1,task.model.initial_temperature={metrics['temperature']}",
    )
    assert tuned.vocabulary == source.vocabulary
    captions = ["a red circle", "a blue bar"]
    # Two steps at 1e-5 change weights by 2e-5 of their norm. A random projection would
    # give other embeddings.
    expected, actual = source.encode_texts(captions), tuned.encode_texts(captions)
    assert np.sum(expected * actual, axis=1) == pytest.approx(1.0, abs=1e-3)
    assert tuned_metrics["temperature"] == pytest.approx(
        metrics["temperature"], rel=1e-3
    )

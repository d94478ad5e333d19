"""Test of a run with LoRA: its files, its resumption and its exports."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import align_keras
from align_keras.config import load_config
from align_keras.models import ALIGN
from align_keras.models.lora import adapted_layers
from align_keras.runs.model_from_config import build_model
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.training.checkpoints import checkpoints_in
from tests.helpers.small_run import COLORS, SHAPES, SMALL, draw, write_pairs

CAPTIONS = ["a red circle", "a blue bar"]
IMAGES = [np.asarray(draw("red", "circle")), np.asarray(draw("blue", "bar"))]
# The first stage has one block, whose gradients are traced in a second.
SIZES = f"{SMALL},task.model.image_encoder.num_stages=1"


def write_base(folder):
    """Writes the preset from which the run starts."""
    vocabulary = [*SPECIAL_TOKENS, "a", *COLORS, *SHAPES]
    config = load_config(params_override=SIZES)
    model = build_model(config.task.model, vocabulary)
    model.save_to_preset(folder)


def state_of(directory):
    """Returns the tensors of the newest checkpoint, without its save counter."""
    reader = tf.train.load_checkpoint(checkpoints_in(directory / "checkpoints")[0])
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "save_counter" not in name and "OBJECT_GRAPH" not in name
    }


def assert_close(model, other, atol):
    for actual, expected in (
        (model.encode_images(IMAGES), other.encode_images(IMAGES)),
        (model.encode_texts(CAPTIONS), other.encode_texts(CAPTIONS)),
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.release
def test_a_run_with_lora_resumes_and_exports_merged_weights(tmp_path):
    base, run_folder, resumed = (tmp_path / n for n in ("base", "run", "resumed"))
    write_base(base)
    encoders = ("image_encoder", "text_encoder")
    pairs = write_pairs(tmp_path / "pairs")
    overrides = [
        SIZES,
        *(f"task.model.{encoder}.weights={base}" for encoder in encoders),
        *(f"task.model.{encoder}.training=lora" for encoder in encoders),
        *(f"task.model.{encoder}.rank=2" for encoder in encoders),
        f"task.train_data.pairs={pairs},task.validation_data.pairs={pairs}",
        f"task.train_data.tfds_data_dir={tmp_path / 'data'}",
        f"task.validation_data.tfds_data_dir={tmp_path / 'data'}",
        "trainer.optimizer_config.learning_rate.linear.initial_learning_rate=0.01",
    ]

    def train(folder):
        return align_keras.train_experiment(
            load_config(params_override=overrides), folder, with_evaluation=False
        )

    trained = train(run_folder).model
    # The state is that of a kill between step 4 and step 8.
    shutil.copytree(run_folder, resumed)
    for path in resumed.iterdir():
        if path.name not in ("params.yaml", "checkpoints", "assets", "inputs.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (resumed / "checkpoints").glob("ckpt-8*"):
        path.unlink()
    train(resumed)
    expected, actual = state_of(run_folder), state_of(resumed)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name

    # The run has changed the embeddings, and the factors alone reproduce them.
    from_base = ALIGN.from_preset(base)
    assert np.abs(
        from_base.encode_texts(CAPTIONS) - trained.encode_texts(CAPTIONS)
    ).max() > (1e-3)
    # Three layers of the block, query, value and both projections.
    assert len(adapted_layers(trained)) == 7
    for folder in (run_folder, resumed):
        from_base = ALIGN.from_preset(base)
        from_base.load_lora_weights(folder / "lora.lora.h5")
        assert_close(from_base, trained, atol=0)

    # The preset and the exports have merged weights, with the same embeddings.
    merged = ALIGN.from_preset(run_folder)
    assert not adapted_layers(merged)
    assert_close(merged, trained, atol=1e-5)
    align_keras.export_model(trained, tmp_path / "export")
    assert_close(align_keras.load_model(tmp_path / "export"), trained, atol=1e-5)
    stored = tmp_path / "export" / "text" / "1" / "variables" / "variables"
    names = tf.train.load_checkpoint(str(stored)).get_variable_to_shape_map()
    assert 0 < len(names) < 2 + len(merged.text_encoder.variables)
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 8

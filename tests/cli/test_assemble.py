"""From configuration to objects: presets, schedules and optimizers."""

import keras
import pytest

from align_keras.cli.assemble import build_model, build_optimizer, build_schedule
from align_keras.config import load_config
from align_keras.optimizers import Lamb

OPTIMIZER = "trainer.optimizer_config"


def optimization(override=""):
    return load_config(params_override=override).trainer.optimizer_config


def test_the_default_schedule_is_the_papers():
    schedule = build_schedule(optimization(), 1_200_000)
    assert float(schedule(0)) == 0.0
    assert float(schedule(10_000)) == pytest.approx(1e-3)
    assert float(schedule(605_000)) == pytest.approx(5e-4, rel=1e-4)
    assert float(schedule(1_200_000)) == pytest.approx(0.0, abs=1e-9)


def test_cosine_and_constant():
    rate = f"{OPTIMIZER}.learning_rate"
    override = f"{rate}.type=cosine,{rate}.cosine.initial_learning_rate=0.2"
    warmup = f"{OPTIMIZER}.warmup.linear.warmup_steps=10"
    schedule = build_schedule(optimization(f"{override},{warmup}"), 110)
    assert float(schedule(10)) == pytest.approx(0.2)
    assert float(schedule(60)) == pytest.approx(0.1)
    override = f"{rate}.type=constant,{OPTIMIZER}.warmup.type=null"
    assert float(build_schedule(optimization(override), 110)(7)) == pytest.approx(1e-3)


def test_optimizers_and_their_exclusions():
    lamb = build_optimizer(optimization(), 1_200_000)
    assert isinstance(lamb, Lamb)
    assert lamb.get_config()["weight_decay"] == 1e-5
    override = f"{OPTIMIZER}.optimizer.type=adamw"
    adamw = build_optimizer(optimization(override), 1_200_000)
    assert isinstance(adamw, keras.optimizers.AdamW)
    names = ("kernel", "bias", "log_temperature")
    variables = [keras.Variable([1.0], name=name) for name in names]
    adamw.build(variables)
    decayed = [adamw._use_weight_decay(variable) for variable in variables]
    assert decayed == [True, False, False]


def test_a_preset_replaces_the_sizes():
    override = "task.model.preset=align_nano,task.model.text_encoder.vocabulary_size=50"
    model = build_model(load_config(params_override=override).task.model)
    assert model.image_size == 64
    assert model.text_encoder.hidden_dim == 128
    assert model.image_encoder.output_shape == (None, 256)

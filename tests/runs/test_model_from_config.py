"""Tests of the construction of models, schedules and optimizers."""

import math

import keras
import numpy as np
import pytest

from align_keras.config import load_config
from align_keras.datasets import open_corpus
from align_keras.optimizers import SGD, AdamW, Lamb
from align_keras.runs.model_from_config import (
    build_model,
    build_optimizer,
    build_schedule,
    compile_model,
    prepare_vocabulary,
)
from align_keras.utils.errors import InputError
from tests.helpers.small_run import write_pairs

OPTIMIZER = "trainer.optimizer_config"


def optimization(override=""):
    return load_config(params_override=override).trainer.optimizer_config


def test_the_default_schedule_is_that_of_the_paper():
    schedule = build_schedule(optimization(), 1_200_000)
    assert float(schedule(0)) == 0.0
    assert float(schedule(10_000)) == pytest.approx(1e-3)
    assert float(schedule(605_000)) == pytest.approx(5e-4, rel=1e-4)
    assert float(schedule(1_200_000)) == pytest.approx(0.0, abs=1e-9)


def test_cosine_and_constant_schedules_have_the_expected_rates():
    rate = f"{OPTIMIZER}.learning_rate"
    override = f"{rate}.type=cosine,{rate}.cosine.initial_learning_rate=0.2"
    warmup = f"{OPTIMIZER}.warmup.linear.warmup_steps=10"
    schedule = build_schedule(optimization(f"{override},{warmup}"), 110)
    assert float(schedule(10)) == pytest.approx(0.2)
    assert float(schedule(60)) == pytest.approx(0.1)
    override = f"{rate}.type=constant,{OPTIMIZER}.warmup.type=null"
    assert float(build_schedule(optimization(override), 110)(7)) == pytest.approx(1e-3)


def test_optimizers_have_the_configured_weight_decay():
    lamb = build_optimizer(optimization(), 1_200_000)
    assert isinstance(lamb, Lamb)
    assert lamb.get_config()["weight_decay"] == 1e-5
    override = f"{OPTIMIZER}.optimizer.type=adamw"
    adamw = build_optimizer(optimization(override), 1_200_000)
    assert isinstance(adamw, AdamW)
    assert adamw.get_config()["weight_decay"] == 1e-5


def test_sgd_has_stepwise_rates_averaging_and_clipping():
    rate, optimizer = f"{OPTIMIZER}.learning_rate", f"{OPTIMIZER}.optimizer"
    override = ",".join(
        [
            f"{rate}.type=stepwise,{rate}.stepwise.boundaries=[30, 60]",
            f"{rate}.stepwise.values=[0.1, 0.02, 0.004]",
            f"{OPTIMIZER}.warmup.linear.warmup_steps=10,{OPTIMIZER}.ema.average_decay=0.9",
            f"{optimizer}.type=sgd,{optimizer}.sgd.global_clipnorm=0.5",
            f"{optimizer}.sgd.nesterov=true",
        ]
    )
    sgd = build_optimizer(optimization(override), 110)
    assert isinstance(sgd, SGD)
    assert (sgd.global_clipnorm, sgd.nesterov) == (0.5, True)
    assert (sgd.use_ema, sgd.ema_momentum) == (True, 0.9)
    schedule = build_schedule(optimization(override), 110)
    # Boundaries are relative to the end of the warm-up, as in Keras's schedules.
    rates = [float(schedule(step)) for step in (5, 10, 40, 41, 70, 71)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.02, 0.02, 0.004])


def test_steps_of_a_configured_sgd_have_the_momentum_of_keras():
    options = {"momentum": 0.8, "nesterov": True}
    rate, sgd = f"{OPTIMIZER}.learning_rate", f"{OPTIMIZER}.optimizer.sgd"
    override = ",".join(
        [
            f"{OPTIMIZER}.optimizer.type=sgd,{OPTIMIZER}.warmup.type=null",
            f"{rate}.type=constant,{rate}.constant.learning_rate=0.1",
            *(f"{sgd}.{name}={value}" for name, value in options.items()),
        ]
    )
    configured = build_optimizer(optimization(override), 100)
    random = np.random.default_rng(0)
    start = random.normal(size=4).astype("float32")
    gradients = random.normal(size=(3, 4)).astype("float32")

    def weights_after_steps(optimizer):
        kernel = keras.Variable(start, name="kernel")
        for gradient in gradients:
            optimizer.apply([keras.ops.array(gradient)], [kernel])
        return kernel.numpy()

    expected = weights_after_steps(keras.optimizers.SGD(0.1, **options))
    weights = weights_after_steps(configured)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


SMALL_TOWERS = (
    "task.model.preset=align_nano,task.model.text_encoder.vocabulary_size=50,"
    "task.model.text_encoder.num_layers=1"
)


def test_options_reach_the_model():
    override = ",".join(
        [
            SMALL_TOWERS,
            "task.loss.contrastive.negatives_fraction=0.5",
            "task.loss.contrastive.tile_size=64",
            "task.loss.contrastive.matmul_dtype=bfloat16",
            "task.train_data.global_batch_size=64,task.train_data.micro_batch_size=16",
            "task.model.image_encoder.virtual_batch_size=8",
            "task.model.image_encoder.rematerialize=true",
            "task.model.image_encoder.learning_rate_multiplier=0.25",
            "task.model.text_encoder.learning_rate_multiplier=0.5",
            "task.model.text_encoder.pooling=mean",
            "task.model.text_encoder.activation=gelu",
            "task.model.text_encoder.max_sequence_length=80",
            "task.model.text_encoder.rematerialize=true",
            "trainer.loss_upper_bound=50",
        ]
    )
    config = load_config(params_override=override)
    model = build_model(config.task.model)
    compile_model(model, config)
    # The sizes are those of the preset.
    assert (model.image_size, model.text_encoder.hidden_dim) == (64, 128)
    assert model.image_encoder.output_shape == (None, 256)
    assert (model.loss.negatives_fraction, model.loss.tile_size) == (0.5, 64)
    assert model.loss.matmul_dtype == "bfloat16"
    assert (model.micro_batch_size, model.loss_upper_bound) == (16, 50.0)
    image = model.image_encoder.get_config()
    assert (image["virtual_batch_size"], image["rematerialize"]) == (8, True)
    assert image["replicas_per_group"] is None
    text = model.text_encoder.get_config()
    assert (text["pooling"], text["activation"]) == ("mean", "gelu")
    assert (text["max_sequence_length"], text["rematerialize"]) == (80, True)
    # The projections learn at the full rate.
    for variable in model.trainable_variables:
        path = variable.path
        factor = model.optimizer.multiplier(path)
        if path.startswith("temperature") or "/projection/" in path:
            assert factor == 1.0, path
        else:
            assert factor == (0.25 if path.startswith("image") else 0.5), path


@pytest.mark.ci
def test_the_temperature_is_read_from_the_weights(tmp_path):
    source = build_model(load_config(params_override=SMALL_TOWERS).task.model)
    source.temperature_layer.log_temperature.assign(math.log(0.07))
    source.save_to_preset(tmp_path)
    override = (
        f"{SMALL_TOWERS},task.model.initial_temperature=null,"
        "task.model.image_encoder.weights="
    )
    config = load_config(params_override=f"{override}{tmp_path}")
    temperature = float(build_model(config.task.model).temperature)
    assert temperature == pytest.approx(0.07, rel=1e-6)
    config = load_config(params_override=f"{override}imagenet")
    with pytest.raises(InputError, match="imagenet"):
        build_model(config.task.model)


def test_the_configuration_sets_the_mode_of_each_encoder():
    image, text = "task.model.image_encoder", "task.model.text_encoder"
    trained = []
    for modes in (
        f"{image}.locked=true,{image}.replicas_per_group=0,{text}.training=projection",
        f"{image}.training=last_blocks,{image}.blocks=1,"
        f"{text}.training=lora,{text}.rank=3",
    ):
        override = f"{SMALL_TOWERS},{modes}"
        model = build_model(load_config(params_override=override).task.model)
        trained.append({variable.path for variable in model.trainable_variables})
        if "replicas" in modes:
            assert model.image_encoder.replicas_per_group == "auto"
    projections, parts = trained
    assert projections == {
        "image_encoder/projection/kernel",
        "image_encoder/projection/bias",
        "text_encoder/projection/kernel",
        "text_encoder/projection/bias",
        "temperature/log_temperature",
    }
    last = model.image_encoder.blocks[-1].path
    images = {path for path in parts if path.startswith("image_encoder/")}
    assert {path for path in images if not path.startswith(f"{last}/")} == {
        "image_encoder/projection/kernel",
        "image_encoder/projection/bias",
    }
    assert len(images) > 2
    # Query, value and projection have two factors each.
    factors = model.text_encoder.trainable_variables
    assert len(factors) == 6
    assert {3} == {f.shape[-1] for f in factors if f.name == "lora_kernel_a"}


def test_a_cased_vocabulary_keeps_the_case_of_words(tmp_path):
    pairs = write_pairs(tmp_path / "pairs")
    text = pairs.read_text(encoding="utf-8").replace("a red", "a Red")
    pairs.write_text(text, encoding="utf-8")
    builder = open_corpus("pairs", pairs=pairs, data_dir=tmp_path / "data")
    sizes = SMALL_TOWERS.replace("vocabulary_size=50", "vocabulary_size=200")
    override = f"{sizes},task.model.text_encoder.normalization=bert_cased"
    config = load_config(params_override=override)
    vocabulary = prepare_vocabulary(config, builder, tmp_path)
    assert "Red" in vocabulary and "red" not in vocabulary
    tokens = build_model(config.task.model, vocabulary).tokenizer("a Red ring")
    words = [vocabulary[token] for token in tokens["token_ids"].numpy().ravel()[:5]]
    assert words == ["[CLS]", "a", "Red", "ring", "[SEP]"]

"""Tests of the construction of models, schedules and optimizers."""

import math

import keras
import numpy as np
import pytest

from align_keras.config import load_config
from align_keras.datasets import open_corpus
from align_keras.optimizers import SGD, AdamW, Lamb
from align_keras.runs.model_from_config import (
    build_image_encoder,
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


@pytest.mark.parametrize(
    "options", [{"momentum": 0.5}, {"momentum": 0.8, "nesterov": True}]
)
def test_steps_of_a_configured_sgd_have_the_momentum_of_keras(options):
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


def test_loss_and_batch_options_reach_the_model():
    override = ",".join(
        [
            SMALL_TOWERS,
            "task.loss.contrastive.negatives_fraction=0.5,task.loss.contrastive.tile_size=64",
            "task.loss.contrastive.matmul_dtype=bfloat16",
            "task.train_data.global_batch_size=64,task.train_data.micro_batch_size=16",
            "task.model.image_encoder.virtual_batch_size=8",
            "task.model.text_encoder.rematerialize=true",
            "trainer.loss_upper_bound=50",
        ]
    )
    config = load_config(params_override=override)
    model = build_model(config.task.model)
    compile_model(model, config)
    assert (model.loss.negatives_fraction, model.loss.tile_size) == (0.5, 64)
    assert model.loss.matmul_dtype == "bfloat16"
    assert (model.micro_batch_size, model.loss_upper_bound) == (16, 50.0)
    assert model.image_encoder.virtual_batch_size == 8
    assert model.text_encoder.rematerialize
    assert model.image_encoder.replicas_per_group is None


def test_zero_replicas_per_group_means_auto():
    section = "task.model.image_encoder"
    override = f"{section}.variant=efficientnet_nano,{section}.replicas_per_group=0"
    encoder = build_image_encoder(load_config(params_override=override).task.model)
    assert encoder.replicas_per_group == "auto"


def test_a_preset_replaces_the_sizes():
    override = "task.model.preset=align_nano,task.model.text_encoder.vocabulary_size=50"
    model = build_model(load_config(params_override=override).task.model)
    assert model.image_size == 64
    assert model.text_encoder.hidden_dim == 128
    assert model.image_encoder.output_shape == (None, 256)


SMALL_TOWERS = (
    "task.model.preset=align_nano,task.model.text_encoder.vocabulary_size=50,"
    "task.model.text_encoder.num_layers=1"
)


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
    with pytest.raises(
        InputError, match="must be the path of an ALIGN. Received: imagenet"
    ):
        build_model(config.task.model)


def test_a_locked_encoder_trains_only_its_projection():
    override = (
        f"{SMALL_TOWERS},task.model.image_encoder.locked=true,"
        "task.model.text_encoder.locked=true"
    )
    model = build_model(load_config(params_override=override).task.model)
    assert {v.path for v in model.trainable_variables} == {
        "image_encoder/projection/kernel",
        "image_encoder/projection/bias",
        "text_encoder/projection/kernel",
        "text_encoder/projection/bias",
        "temperature/log_temperature",
    }


def test_the_configuration_sets_the_mode_of_each_encoder():
    image, text = "task.model.image_encoder", "task.model.text_encoder"
    override = (
        f"{SMALL_TOWERS},{image}.training=last_blocks,{image}.blocks=1,"
        f"{text}.training=lora,{text}.rank=3"
    )
    model = build_model(load_config(params_override=override).task.model)
    last = model.image_encoder.blocks[-1].path
    learned = {variable.path for variable in model.image_encoder.trainable_variables}
    assert {path for path in learned if not path.startswith(f"{last}/")} == {
        "image_encoder/projection/kernel",
        "image_encoder/projection/bias",
    }
    factors = model.text_encoder.trainable_variables
    # Query, value and projection have two factors each.
    assert len(factors) == 6
    assert {3} == {f.shape[-1] for f in factors if f.name == "lora_kernel_a"}
    assert model.temperature_layer.trainable


@pytest.mark.parametrize("mode", ["projection", "full"])
def test_training_equals_locked(mode):
    """`training: projection` is the same as `locked: true` in every weight."""
    section = "task.model.text_encoder"
    locked = str(mode == "projection").lower()
    models = [
        build_model(load_config(params_override=override).task.model)
        for override in (
            f"{SMALL_TOWERS},{section}.training={mode}",
            f"{SMALL_TOWERS},{section}.locked={locked}",
        )
    ]
    paths = [{v.path for v in model.trainable_variables} for model in models]
    assert paths[0] == paths[1]


def test_learning_rate_multipliers_exclude_the_projections():
    override = (
        f"{SMALL_TOWERS},task.model.image_encoder.learning_rate_multiplier=0.25,"
        "task.model.text_encoder.learning_rate_multiplier=0.5"
    )
    config = load_config(params_override=override)
    model = build_model(config.task.model)
    compile_model(model, config)
    factors = {
        v.path: model.optimizer.multiplier(v.path) for v in model.trainable_variables
    }
    for path, factor in factors.items():
        if path.startswith("temperature") or "/projection/" in path:
            assert factor == 1.0, path
        else:
            assert factor == (0.25 if path.startswith("image") else 0.5), path


def test_text_encoder_options_reach_the_model():
    override = (
        f"{SMALL_TOWERS},task.model.text_encoder.pooling=mean,"
        "task.model.text_encoder.activation=gelu,"
        "task.model.text_encoder.max_sequence_length=80,"
        "task.model.text_encoder.hidden_dim=256,task.model.text_encoder.num_heads=4,"
        "task.model.text_encoder.projection=false,"
        "task.model.image_encoder.freeze_batch_statistics=true,"
        "task.model.image_encoder.rematerialize=true"
    )
    model = build_model(load_config(params_override=override).task.model)
    text = model.text_encoder.get_config()
    assert (text["pooling"], text["activation"]) == ("mean", "gelu")
    assert (text["max_sequence_length"], text["projection_dim"]) == (80, None)
    image = model.image_encoder.get_config()
    assert image["freeze_batch_statistics"] and image["rematerialize"]


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

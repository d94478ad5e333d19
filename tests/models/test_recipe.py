"""Tests of the recipe that `fit` resolves if `compile` got no optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

import align_keras
from align_keras.models import contrastive_model
from align_keras.models.recipe import choose_optimizer
from align_keras.optimizers import SGD, LinearWarmup, Muon
from align_keras.training.strategies import strategy_scope
from tests.helpers.small import VOCABULARY, small_batch, small_encoders


def one_stage_align(synchronized=False, **arguments):
    """Returns an ALIGN with few variables, which makes tracing a step fast."""
    encoders = small_encoders(num_stages=1, synchronized=synchronized)
    return align_keras.ALIGN.from_encoders(
        *encoders, vocabulary=VOCABULARY, **arguments
    )


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return one_stage_align()


def batches(count=2, size=4):
    parts = [small_batch(size, seed=seed) for seed in range(count)]
    stacked = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return tf.data.Dataset.from_tensor_slices(stacked).batch(size, drop_remainder=True)


def compile_eagerly(model, *arguments):
    """Compiles the model for few steps, which take less time than tracing them."""
    model.compile(*arguments, run_eagerly=True)


def rate(model, step):
    return float(model.optimizer._learning_rate(step))


def test_inference_allocates_no_optimizer(model):
    for options in ({}, {"recipe": "paper"}, {"optimizer": SGD(0.1)}):
        model.compile(**options)
        assert model.optimizer is None or not model.optimizer.built
    model.build_optimizer()
    assert model.optimizer.built


def test_a_model_must_be_compiled_before_training():
    model = one_stage_align(compile=False)
    with pytest.raises(ValueError, match="compile"):
        model.fit(batches(), verbose=0)


def test_fit_resolves_the_recipe_and_prints_it(model, capsys):
    compile_eagerly(model)
    model.fit(batches(2), epochs=2, verbose=0)
    assert "recipe" not in capsys.readouterr().err
    recipe = model.resolved_recipe
    assert (recipe.steps, recipe.batch_size) == (4, 4)
    assert isinstance(model.optimizer, Muon)
    assert int(model.optimizer.iterations) == 4
    assert rate(model, recipe.warmup_steps) == pytest.approx(recipe.learning_rate)
    assert rate(model, 4) == pytest.approx(0.0, abs=1e-9)

    # A second `fit` has a new schedule, and uses the same optimizer.
    optimizer = model.optimizer
    model.fit(batches(2), verbose=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("recipe: Muon")] == [
        str(model.resolved_recipe)
    ]
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 6
    assert rate(model, 6) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.ci
def test_initial_epoch_continues_the_schedule_of_the_whole_run(model):
    compile_eagerly(model)
    model.fit(batches(2), epochs=1, verbose=0)
    model.fit(batches(2), initial_epoch=1, epochs=2, verbose=0)
    assert model.resolved_recipe.steps == 4
    assert int(model.optimizer.iterations) == 4
    assert 0 < rate(model, 3) < model.resolved_recipe.learning_rate
    assert rate(model, 4) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.ci
def test_a_stream_of_unknown_length_is_resolved_without_steps(model):
    compile_eagerly(model)
    stream = batches(1).filter(lambda batch: True)
    model.fit(stream, verbose=0)
    assert model.resolved_recipe.steps is None
    assert model.resolved_recipe.batch_size == 4
    assert int(model.optimizer.iterations) == 1
    model.fit(stream.repeat(), steps_per_epoch=2, verbose=0)
    assert model.resolved_recipe.steps == 2


@pytest.mark.ci
def test_train_on_batch_has_a_constant_rate_after_the_warmup(model):
    compile_eagerly(model)
    model.train_on_batch(small_batch())
    assert model.resolved_recipe.steps is None
    assert int(model.optimizer.iterations) == 1


@pytest.mark.parametrize(
    ("data", "batch_size", "expected"),
    [
        (lambda batch: batch, 4, (2, 4)),
        (lambda batch: (list(batch["images"]), ["a"] * 8), 512, (1, 8)),
        (
            lambda batch: tf.data.Dataset.from_tensor_slices(
                {"image": batch["images"], "caption": ["a"] * 8}
            ).batch(4),
            None,
            (2, 4),
        ),
    ],
)
def test_all_inputs_determine_steps_and_batch_size(
    model, data, batch_size, expected, monkeypatch
):
    class Chosen(Exception):
        """Ends `fit` before the first step."""

    def choose(model, steps, size, initial_step):
        raise Chosen(steps, size)

    model.compile(SGD(0.0))
    monkeypatch.setattr(contrastive_model, "choose_optimizer", choose)
    x = data(small_batch(8))
    x, y = x if isinstance(x, tuple) else (x, None)
    with pytest.raises(Chosen) as caught:
        model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0)
    assert caught.value.args == expected


@pytest.mark.ci
def test_momentum_of_moving_statistics_depends_on_the_run_length(model):
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert layers
    compile_eagerly(model)
    model.fit(batches(1), verbose=0)
    assert {layer.momentum for layer in layers} == {0.0}
    model.compile(SGD(0.1))
    assert {layer.momentum for layer in layers} == {0.99}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.1),
        ({"initial_temperature": 0.5}, 0.5),
        ({"learn_temperature": False}, 1.0),
    ],
)
def test_temperature_starts_at_0_1_unless_it_was_set(arguments, expected):
    model = one_stage_align(**arguments)
    model.compile()
    assert float(model.temperature) == model.backbone.initial_temperature
    model.build_optimizer()
    assert float(model.temperature) == pytest.approx(expected)
    is_lowered = float(model.temperature) != pytest.approx(
        model.backbone.initial_temperature
    )
    assert is_lowered == ("initial temperature 0.1" in str(model.resolved_recipe))
    model = one_stage_align(**arguments)
    model.compile(recipe="paper")
    model.build_optimizer()
    assert float(model.temperature) == model.backbone.initial_temperature


@pytest.mark.ci
def test_trained_weights_use_a_tenth_of_the_learning_rate(model):
    compile_eagerly(model)
    model.fit(batches(1), verbose=0)
    first_recipe = model.resolved_recipe
    assert not first_recipe.is_fine_tuning
    compile_eagerly(model)
    model.fit(batches(1), verbose=0)
    assert model.resolved_recipe.learning_rate == pytest.approx(
        first_recipe.learning_rate / 10
    )
    # A second `fit` of the same model uses the lower rate too.
    model.fit(batches(1), verbose=0)
    assert model.resolved_recipe.is_fine_tuning


def test_initial_step_shifts_the_schedule_of_a_new_optimizer(model):
    model.compile()
    choose_optimizer(model, 20, 4, initial_step=10)
    assert rate(model, 0) == pytest.approx(
        float(model.resolved_recipe.schedule()(10)), rel=1e-6
    )
    assert rate(model, 10) == pytest.approx(0.0, abs=1e-9)


def test_an_optimizer_has_a_name_as_in_keras(model):
    model.compile("adamw")
    assert isinstance(model.optimizer, keras.optimizers.AdamW)


def test_options_set_after_compile_are_preserved(model):
    model.compile()
    model.run_eagerly = True
    choose_optimizer(model, 20, 4)
    assert model.run_eagerly


@pytest.mark.ci
def test_a_warmup_longer_than_the_run_is_reported(model, capsys):
    compile_eagerly(model, SGD(LinearWarmup(1e-3, 2)))
    model.fit(batches(1), verbose=0)
    assert "warm-up" in capsys.readouterr().err
    model.fit(batches(2), verbose=0)
    assert "warm-up" not in capsys.readouterr().err


@pytest.mark.ci
@pytest.mark.parametrize("is_fitted", [False, True])
def test_a_keras_file_stores_the_recipe_and_the_optimizer(model, tmp_path, is_fitted):
    compile_eagerly(model)
    if is_fitted:
        model.fit(batches(1), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.recipe == "auto"
    if not is_fitted:
        assert loaded.optimizer is None
        return
    assert int(loaded.optimizer.iterations) == 1
    for actual, expected in zip(
        loaded.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    for trained_model in (model, loaded):
        trained_model.fit(batches(1), initial_epoch=1, epochs=3, verbose=0)
    assert loaded.resolved_recipe == model.resolved_recipe
    assert rate(loaded, 2) == rate(model, 2)


@pytest.mark.ci
def test_mixed_precision_scales_the_loss():
    keras.utils.set_random_seed(0)
    model = align_keras.ALIGN.from_encoders(
        *small_encoders(num_stages=1), dtype="mixed_float16"
    )
    compile_eagerly(model)
    model.fit(batches(1), verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, Muon)
    assert int(model.optimizer.inner_optimizer.iterations) == 1


@pytest.mark.release
@pytest.mark.timeout(900)
def test_two_replicas_use_the_same_recipe(two_replicas):
    with strategy_scope(two_replicas):
        model = one_stage_align(synchronized=True)
        model.compile()
    for epochs in (1, 2):
        model.fit(batches(2, size=8), epochs=epochs, verbose=0)
        recipe = model.resolved_recipe
        assert (recipe.steps, recipe.batch_size) == (2 * epochs, 8)
    assert int(model.optimizer.iterations.numpy()) == 6
    for variable in model.trainable_variables:
        first, second = two_replicas.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


COLORS = {
    "red": (220, 40, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "black": (10, 10, 10),
    "yellow": (240, 210, 30),
    "purple": (140, 40, 170),
}
SHAPES = ("circle", "square", "triangle", "ring")


def drawing(color, shape, random):
    """Returns an image of a shape of random size and position on white."""
    image = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(image)
    size = int(random.integers(18, 28))
    x, y = (int(value) for value in random.integers(8, 41 - size, 2))
    box = (x, y, x + size, y + size)
    if shape == "circle":
        pen.ellipse(box, fill=COLORS[color])
    elif shape == "square":
        pen.rectangle(box, fill=COLORS[color])
    elif shape == "triangle":
        corners = [(x, box[3]), (box[2], box[3]), (x + size // 2, y)]
        pen.polygon(corners, fill=COLORS[color])
    else:
        pen.ellipse(box, outline=COLORS[color], width=5)
    return np.asarray(image)


def drawings(count, seed):
    """Returns `count` images of each color and shape, and their captions."""
    random = np.random.default_rng(seed)
    captions = [f"{color} {shape}" for color in COLORS for shape in SHAPES] * count
    return [drawing(*caption.split(), random) for caption in captions], captions


@pytest.mark.release
@pytest.mark.timeout(600)
def test_compile_without_an_optimizer_learns_from_few_drawings():
    keras.utils.set_random_seed(0)
    images, captions = drawings(40, seed=0)
    vocabulary = align_keras.learn_vocabulary(captions, size=200)
    encoders = (
        align_keras.ImageEncoder.from_variant("nano", 32, image_size=32),
        align_keras.TextEncoder.from_variant(
            "bert_tiny",
            vocabulary_size=len(vocabulary),
            projection_dim=32,
            sequence_length=6,
        ),
    )
    model = align_keras.ALIGN.from_encoders(*encoders, vocabulary=vocabulary)
    model.compile()
    model.fit(images, captions, batch_size=32, epochs=10, verbose=0)
    # Each of the new drawings is compared with 24 captions. Chance is 0.04.
    new_images, new_captions = drawings(10, seed=1)
    cosines = model.similarity(new_images, new_captions[:24])
    accuracy = np.mean(cosines.argmax(axis=1) == np.arange(len(new_images)) % 24)
    assert accuracy > 0.2

"""Tests that compare the tiled loss with the plain form, NumPy and open_clip."""

import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import contrastive_loss, tiled_loss
from tests.helpers.recorded_oracles import recorded

SCRIPT = pathlib.Path(__file__).with_name("tiled_replicas_script.py")
ROWS = 13
# Tiles that don't divide 13 rows, and saved tiles.
TILE_SIZES = (5, pytest.param("auto", marks=pytest.mark.ci))


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.cache
def compiled(dtype, **options):
    """Returns a compiled function of the loss and its gradients."""
    rows = tf.TensorSpec([None if options.pop("dynamic", False) else ROWS, 6], dtype)
    groups = tf.TensorSpec([None], tf.int64)
    use_groups = options.pop("groups", False)

    @tf.function(
        input_signature=[rows, rows, tf.TensorSpec([], dtype), groups],
        jit_compile=options.pop("xla", None),
    )
    def loss_and_gradients(images, texts, temperature, groups):
        arguments = (images, texts, temperature)
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = contrastive_loss(
                *arguments, pair_groups=groups if use_groups else None, **options
            )
        return loss, *tape.gradient(loss, arguments)

    return loss_and_gradients


def run(images, texts, temperature, dtype=tf.float64, **options):
    groups = options.pop("pair_groups", None)
    if groups is not None:
        options["groups"] = True
    step = compiled(dtype, **options)
    values = [tf.constant(value, dtype) for value in (images, texts, temperature)]
    groups = tf.constant([] if groups is None else groups, tf.int64)
    return [value.numpy() for value in step(*values, groups)]


def assert_equal(actual, expected, rtol):
    for values, expected_values in zip(actual, expected, strict=True):
        # An exact zero may be the sum of rounded terms of up to 1 / temperature².
        scale = max(np.abs(expected_values).max(), 1e-2)
        np.testing.assert_allclose(
            values, expected_values, rtol=rtol, atol=rtol * scale
        )


@pytest.mark.parametrize("tile_size", TILE_SIZES)
def test_the_tiled_form_equals_the_plain_form_in_float64(tile_size):
    # At 1 / 1000, logits are too large to be exponentiated without a shift.
    images, texts = unit_rows(ROWS, 6, 0), unit_rows(ROWS, 6, 1)
    for temperature in (1.0, 1 / 64, 1 / 1000):
        plain = run(images, texts, temperature)
        tiled = run(images, texts, temperature, tile_size=tile_size)
        # Logits of up to 1000 are rounded by 2e-16 of their size, and 13 are summed.
        assert_equal(tiled, plain, 1e-11)


@pytest.mark.parametrize("tile_size", TILE_SIZES)
def test_the_tiled_form_in_float32_equals_the_plain_form(tile_size):
    images, texts = unit_rows(ROWS, 6, 2), unit_rows(ROWS, 6, 3)
    # At 1 / 128, logits are too large for float32 without a shift. A logit of
    # 1 / temperature is rounded by 6e-8 of its size, which is the relative error of its
    # exponential.
    for temperature in (1.0, 1 / 16, 1 / 64, 1 / 128):
        exact = run(images, texts, temperature)
        tiled = run(images, texts, temperature, tf.float32, tile_size=tile_size)
        assert all(value.dtype == np.float32 for value in tiled)
        assert_equal(tiled, exact, 1e-6 + 3e-7 / temperature)


@pytest.mark.parametrize("temperature", [1.0, 1 / 128])
def test_the_tiled_loss_with_groups_equals_numpy_in_float64(temperature):
    images, texts = unit_rows(ROWS, 6, 4), unit_rows(ROWS, 6, 5)
    pair_groups = np.arange(ROWS) // 3
    targets = (pair_groups[:, None] == pair_groups[None]).astype(float)
    targets = 0.9 * targets / targets.sum(1, keepdims=True) + 0.1 / ROWS
    logits = images @ texts.T / temperature
    expected = sum(
        np.mean(np.logaddexp.reduce(rows, axis=1) - (targets * rows).sum(1))
        for rows in (logits, logits.T)
    )
    loss, *_ = run(images, texts, temperature, tile_size=5, pair_groups=pair_groups)
    assert float(loss) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("tile_size", TILE_SIZES)
def test_the_tiled_form_with_groups_equals_the_plain_form(tile_size):
    images, texts = unit_rows(ROWS, 6, 6), unit_rows(ROWS, 6, 7)
    groups = np.random.default_rng(0).integers(0, 5, ROWS) * 2**40
    plain = run(images, texts, 0.1, pair_groups=groups)
    assert abs(float(plain[0] - run(images, texts, 0.1)[0])) > 1e-3
    assert_equal(
        run(images, texts, 0.1, pair_groups=groups, tile_size=tile_size), plain, 1e-11
    )


def test_rows_of_very_different_scales_have_separate_shifts():
    """A common shift would round small rows to 0, or overflow in large rows."""
    lengths = np.geomspace(1e-3, 1e3, ROWS)[:, None]
    images, texts = lengths * unit_rows(ROWS, 6, 8), lengths * unit_rows(ROWS, 6, 9)
    tiled = run(images, texts, 1 / 16, tf.float32, tile_size=5)
    # The tolerance allows for the rounding of logits of up to 1.6e7 in float32.
    for actual, exact in zip(tiled, run(images, texts, 1 / 16), strict=True):
        np.testing.assert_allclose(
            actual, exact, rtol=1e-4, atol=1e-6 * abs(exact).max()
        )


@pytest.mark.parametrize(
    "images",
    [np.zeros((ROWS, 6)), np.full((ROWS, 6), 6**-0.5), np.full((ROWS, 6), 4.0)],
    ids=["zero embeddings", "duplicate pairs", "long duplicates"],
)
@pytest.mark.parametrize("tile_size", [5, "auto"])
def test_degenerate_inputs_have_exact_losses_and_gradients(images, tile_size):
    # 1 / 70 is just within the bound of float32. No sum may overflow, and no gradient
    # may underflow.
    for temperature in (1.0, 1 / 70, 1 / 128):
        plain = run(images, images, temperature)
        tiled = run(images, images, temperature, tf.float32, tile_size=tile_size)
        assert all(np.isfinite(value).all() for value in tiled)
        # Probabilities are exp(logit - normalizer), and float32 rounds both terms by
        # 6e-8 of their size. They are multiplied by embeddings / temperature.
        lengths = np.linalg.norm(images, axis=1).max()
        rounding = 2e-7 * (1 + lengths**2 / temperature)
        np.testing.assert_allclose(tiled[0], plain[0], atol=5 * rounding)
        for actual, exact in zip(tiled[1:3], plain[1:3], strict=True):
            tolerance = rounding * lengths / temperature
            np.testing.assert_allclose(actual, exact, atol=tolerance)


def test_batches_of_unknown_size_are_supported():
    for count in (1, 4, 13):
        images, texts = unit_rows(count, 6, 10), unit_rows(count, 6, 11)
        plain = run(images, texts, 0.1, dynamic=True)
        assert_equal(run(images, texts, 0.1, dynamic=True, tile_size=4), plain, 1e-11)


def test_gradients_of_duplicate_images_with_large_logits_are_exact():
    texts = unit_rows(ROWS, 6, 12)
    images = np.repeat(texts[:1], ROWS, axis=0)
    exact = run(images, texts, 1 / 70)
    tiled = run(images, texts, 1 / 70, tf.float32, tile_size=5)
    assert_equal(tiled, exact, 3e-5)


def test_saved_tiles_are_read_at_their_positions(monkeypatch):
    monkeypatch.setattr(tiled_loss, "AUTO_TILE_SIZE", 5)
    images, texts = unit_rows(ROWS, 6, 23), unit_rows(ROWS, 6, 24)
    # No other test has this smoothing. Otherwise a cached graph with larger tiles would
    # be used.
    plain = run(images, texts, 0.1, label_smoothing=0.3)
    saved = run(images, texts, 0.1, label_smoothing=0.3, tile_size="auto")
    assert_equal(saved, plain, 1e-11)


@pytest.mark.ci
def test_gradients_of_a_large_batch_do_not_underflow():
    """1 / rows / sum of exponentials is 1e-39, below the normal numbers of float32."""
    rows = tf.repeat(tf.constant([[1.0, 0.0]]), 16384, axis=0)

    @tf.function
    def gradient(images):
        loss = contrastive_loss(images, rows, 1 / 70, tile_size=2048)
        return tf.gradients(loss, images)[0]

    # All logits are equal, so the gradient of the positive, 70 / 16384, cancels out
    # with that of the normalizer.
    np.testing.assert_allclose(gradient(rows), 0.0, atol=1e-4 * 70 / 16384)


def test_nan_is_propagated_to_the_loss():
    images = unit_rows(ROWS, 6, 13)
    images[3, 2] = np.nan
    loss, *_ = run(images, unit_rows(ROWS, 6, 14), 0.1, tile_size=5)
    assert np.isnan(loss)


# All configurations of the loss that an experiment can have.
CONFIGURATIONS = {
    "plain": {},
    "plain groups": {"pair_groups": True},
    "plain fraction": {"negatives_fraction": 0.5},
    "plain all": {"pair_groups": True, "negatives_fraction": 0.5},
    "tiled": {"tile_size": 5},
    "tiled groups": {"tile_size": 5, "pair_groups": True},
    "tiled fraction": {"tile_size": 5, "negatives_fraction": 0.5},
    "tiled all": {"tile_size": 5, "pair_groups": True, "negatives_fraction": 0.5},
    "tiled bfloat16": {"tile_size": 5, "matmul_dtype": "bfloat16"},
    "saved": {"tile_size": "auto"},
    "saved all": {"tile_size": "auto", "pair_groups": True, "negatives_fraction": 0.5},
    "saved bfloat16": {"tile_size": "auto", "matmul_dtype": "bfloat16"},
    "mean, not smooth": {"label_smoothing": 0.0, "reduction": "mean"},
}


def run_configuration(options, xla):
    """Returns the loss and gradients of 14 rows in float32, and their graph.

    14 is even, so that the rows can be divided into two parts.
    """
    options = dict(options)
    groups = np.arange(14) // 3 if options.pop("pair_groups", False) else None
    rows = [tf.constant(unit_rows(14, 6, seed), tf.float32) for seed in (15, 16)]

    @tf.function(jit_compile=xla)
    def loss_and_gradients(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = contrastive_loss(*arguments, pair_groups=groups, **options)
        return loss, *tape.gradient(loss, arguments)

    graph = loss_and_gradients.get_concrete_function(*rows, tf.constant(1 / 16)).graph
    values = loss_and_gradients(*rows, tf.constant(1 / 16))
    return [value.numpy() for value in values], graph


@pytest.mark.release
@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_each_configuration_compiles_with_xla(name):
    """TPUs compile the same graphs with XLA."""
    options = CONFIGURATIONS[name]
    compiled_values, _ = run_configuration(options, xla=True)
    plain_values, _ = run_configuration(options, xla=False)
    # bfloat16 products may be rounded before or after they are summed.
    tolerance = 2e-2 if "bfloat16" in name else 1e-5
    assert_equal(compiled_values, plain_values, tolerance)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["tiled all", "plain all"])
def test_no_operation_has_an_output_of_unknown_length(name):
    """TPUs don't support such operations, for example `tf.unique`."""
    _, graph = run_configuration(CONFIGURATIONS[name], xla=None)
    nodes = list(graph.as_graph_def().node)
    nodes += [n for f in graph.as_graph_def().library.function for n in f.node_def]
    unknown = {"Unique", "UniqueV2", "UniqueWithCounts", "Where", "ListDiff"}
    assert not unknown & {node.op for node in nodes}


def test_group_numbers_may_be_any_integers():
    images, texts = unit_rows(ROWS, 6, 19), unit_rows(ROWS, 6, 20)
    small = np.array([2, 0, 2, 3, 0, 1, 4, 4, 5, 3, 0, 6, 2])
    large = np.array([-(2**62), -7, 0, 7, 2**40, 2**61, 2**62])[[5, 3, 0, 1, 2, 4, 6]]
    expected = run(images, texts, 0.1, pair_groups=small, tile_size=5)
    loss = run(images, texts, 0.1, pair_groups=large[small], tile_size=5)
    assert_equal(loss, expected, 1e-12)
    single_pair = (images[:1], texts[:1], 0.1)
    groups = tf.constant([2**62], tf.int64)
    plain = contrastive_loss(*single_pair, pair_groups=groups)
    tiled = contrastive_loss(*single_pair, pair_groups=groups, tile_size=5)
    assert float(tiled) == pytest.approx(float(plain), abs=1e-12)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    images = tf.cast(unit_rows(ROWS, 6, 17), dtype)
    texts = tf.cast(unit_rows(ROWS, 6, 18), dtype)
    loss = contrastive_loss(images, texts, 1 / 64, tile_size=5)
    assert loss.dtype == tf.float32
    exact = contrastive_loss(
        tf.cast(images, tf.float64), tf.cast(texts, tf.float64), 1 / 64
    )
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.ci
def test_bfloat16_products_are_close_to_float32():
    images, texts = unit_rows(ROWS, 6, 19), unit_rows(ROWS, 6, 20)
    exact = run(images, texts, 1 / 16, tf.float32)
    rounded = run(
        images, texts, 1 / 16, tf.float32, tile_size=5, matmul_dtype="bfloat16"
    )
    differences = [
        np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        for actual, expected in zip(rounded, exact, strict=True)
    ]
    # A mantissa of 8 bits rounds a logit of 16 by up to 1 / 32.
    assert 1e-5 < max(differences) < 0.05


def test_the_loss_and_its_gradients_equal_those_of_open_clip():
    """Compares with recorded results (see `tests.helpers.recorded_oracles`)."""
    [(inputs, results)] = recorded("open_clip_loss")
    images, texts = inputs["images"], inputs["texts"]
    temperature = float(inputs["temperature"])
    loss, *gradients = run(
        images, texts, temperature, tile_size=5, label_smoothing=0.0, reduction="mean"
    )
    assert float(loss) == pytest.approx(float(results["loss"]), rel=1e-11)
    for gradient, name in zip(gradients, ("images", "texts"), strict=False):
        np.testing.assert_allclose(gradient, results[name], rtol=1e-9, atol=1e-12)


@pytest.mark.release
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_equal_one_device_and_use_little_memory(replicas):
    """Runs a MirroredStrategy on logical CPUs in a separate process."""
    process = subprocess.run(
        [sys.executable, os.fspath(SCRIPT), str(replicas)],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    lines = [line.split() for line in process.stdout.splitlines()]
    cases = [line for line in lines if line[:1] == ["replicas"]]
    assert len(cases) == 8
    for line in cases:
        # Both are computed in float64, but sum in another order.
        assert float(line[-1]) < 1e-11, line
    memory = [float(line[-1]) for line in lines if line[:1] == ["memory"]]
    # MiB. In float32, the logits of 8,192 pairs need 256 MiB, and a tile of 512 needs
    # 1 MiB. The measured total was 28 MiB.
    assert len(memory) == 2
    assert max(memory) < 80

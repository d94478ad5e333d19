"""The tiled form against the plain one, NumPy, and its limits in memory."""

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
# One tile, tiles that don't divide 13 rows, and kept ones.
TILE_SIZES = (20, 5, "auto")


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.cache
def compiled(dtype, **options):
    """Loss and gradients as a graph; the temperature varies without a new one."""
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


def assert_equal(ours, theirs, rtol):
    for one, other in zip(ours, theirs, strict=True):
        # What is zero is left by terms of up to 1 / temperature², each rounded.
        scale = max(np.abs(other).max(), 1e-2)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    "tile_size", [pytest.param(20, marks=pytest.mark.ci), 5, "auto"]
)
@pytest.mark.parametrize("smoothing", [pytest.param(0.0, marks=pytest.mark.ci), 0.1])
def test_equals_plain_in_float64(tile_size, smoothing):
    # 1 / 1000 is past the bound, up to which nothing is shifted.
    images, texts = unit_rows(ROWS, 6, 0), unit_rows(ROWS, 6, 1)
    for temperature in (1.0, 1 / 16, 1 / 64, 1 / 128, 1 / 1000):
        plain = run(images, texts, temperature, label_smoothing=smoothing)
        tiled = run(
            images, texts, temperature, label_smoothing=smoothing, tile_size=tile_size
        )
        # Rounding of logits up to 1000 times float64's 2e-16, and sums of 13.
        assert_equal(tiled, plain, 1e-11)


@pytest.mark.parametrize("tile_size", TILE_SIZES)
def test_equals_plain_in_float32(tile_size):
    images, texts = unit_rows(ROWS, 6, 2), unit_rows(ROWS, 6, 3)
    # The last is past float32's bound. A logit of 1 / temperature is rounded
    # by 6e-8 of itself, which is the relative error of its exponential.
    for temperature in (1.0, 1 / 16, 1 / 64, 1 / 128):
        exact = run(images, texts, temperature)
        tiled = run(images, texts, temperature, tf.float32, tile_size=tile_size)
        assert all(value.dtype == np.float32 for value in tiled)
        assert_equal(tiled, exact, 1e-6 + 3e-7 / temperature)


@pytest.mark.parametrize("temperature", [1.0, 1 / 128])
@pytest.mark.parametrize("groups", [False, True])
def test_equals_numpy_in_float64(temperature, groups):
    images, texts = unit_rows(ROWS, 6, 4), unit_rows(ROWS, 6, 5)
    pair_groups = np.arange(ROWS) // 3 if groups else np.arange(ROWS)
    targets = (pair_groups[:, None] == pair_groups[None]).astype(float)
    targets = 0.9 * targets / targets.sum(1, keepdims=True) + 0.1 / ROWS
    logits = images @ texts.T / temperature
    expected = sum(
        np.mean(np.logaddexp.reduce(each, axis=1) - (targets * each).sum(1))
        for each in (logits, logits.T)
    )
    options = {"pair_groups": pair_groups} if groups else {}
    loss, *_ = run(images, texts, temperature, tile_size=5, **options)
    assert float(loss) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("tile_size", TILE_SIZES)
def test_shared_targets_equal_plain(tile_size):
    images, texts = unit_rows(ROWS, 6, 6), unit_rows(ROWS, 6, 7)
    groups = np.random.default_rng(0).integers(0, 5, ROWS) * 2**40
    plain = run(images, texts, 0.1, pair_groups=groups)
    assert abs(float(plain[0] - run(images, texts, 0.1)[0])) > 1e-3
    assert_equal(
        run(images, texts, 0.1, pair_groups=groups, tile_size=tile_size), plain, 1e-11
    )


def test_rows_on_very_different_scales_need_their_own_shift():
    """A single shift would lose the small rows, or overflow in the large."""
    lengths = np.geomspace(1e-3, 1e3, ROWS)[:, None]
    images, texts = lengths * unit_rows(ROWS, 6, 8), lengths * unit_rows(ROWS, 6, 9)
    tiled = run(images, texts, 1 / 16, tf.float32, tile_size=5)
    # Logits up to 1.6e7: only their rounding in float32 remains.
    for ours, exact in zip(tiled, run(images, texts, 1 / 16), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-6 * abs(exact).max())


@pytest.mark.parametrize(
    "images",
    [np.zeros((ROWS, 6)), np.full((ROWS, 6), 6**-0.5), np.full((ROWS, 6), 4.0)],
    ids=["zero embeddings", "duplicate pairs", "long duplicates"],
)
@pytest.mark.parametrize("tile_size", [5, "auto"])
def test_degenerate_inputs(images, tile_size):
    # With all logits at 70, just inside float32's bound, no sum may overflow
    # and no weight underflow.
    for temperature in (1.0, 1 / 70, 1 / 128):
        plain = run(images, images, temperature)
        tiled = run(images, images, temperature, tf.float32, tile_size=tile_size)
        assert all(np.isfinite(value).all() for value in tiled)
        # Probabilities are exp(logit - normalizer), where float32 rounds both by
        # 6e-8 of their size; they weigh embeddings / temperature.
        lengths = np.linalg.norm(images, axis=1).max()
        rounding = 2e-7 * (1 + lengths**2 / temperature)
        np.testing.assert_allclose(tiled[0], plain[0], atol=5 * rounding)
        for ours, exact in zip(tiled[1:3], plain[1:3], strict=True):
            tolerance = rounding * lengths / temperature
            np.testing.assert_allclose(ours, exact, atol=tolerance)


def test_batches_of_unknown_size():
    for count in (1, 4, 13):
        images, texts = unit_rows(count, 6, 10), unit_rows(count, 6, 11)
        plain = run(images, texts, 0.1, dynamic=True)
        assert_equal(run(images, texts, 0.1, dynamic=True, tile_size=4), plain, 1e-11)


def test_duplicates_at_the_bound_keep_their_gradient():
    """The images of one text: each pulls it by its share of all columns."""
    texts = unit_rows(ROWS, 6, 12)
    images = np.repeat(texts[:1], ROWS, axis=0)
    exact = run(images, texts, 1 / 70)
    tiled = run(images, texts, 1 / 70, tf.float32, tile_size=5)
    assert_equal(tiled, exact, 3e-5)


def test_kept_tiles_are_read_where_they_were_written(monkeypatch):
    monkeypatch.setattr(tiled_loss, "AUTO_TILE_SIZE", 5)
    images, texts = unit_rows(ROWS, 6, 23), unit_rows(ROWS, 6, 24)
    # The smoothing is no other test's: their graphs have the larger tile.
    plain = run(images, texts, 0.1, label_smoothing=0.3)
    kept = run(images, texts, 0.1, label_smoothing=0.3, tile_size="auto")
    assert_equal(kept, plain, 1e-11)


@pytest.mark.ci
def test_weights_of_a_large_batch_do_not_underflow():
    """A weight, 1 / rows / sum of exponentials, is 1e-39 here: less than float32's
    smallest normal number.
    """
    rows = tf.repeat(tf.constant([[1.0, 0.0]]), 16384, axis=0)

    @tf.function
    def gradient(images):
        loss = contrastive_loss(images, rows, 1 / 70, tile_size=2048)
        return tf.gradients(loss, images)[0]

    # Equal logits: the pull to the own text, 70 / 16384, is that of all texts.
    np.testing.assert_allclose(gradient(rows), 0.0, atol=1e-4 * 70 / 16384)


def test_nan_stays_visible():
    images = unit_rows(ROWS, 6, 13)
    images[3, 2] = np.nan
    loss, *_ = run(images, unit_rows(ROWS, 6, 14), 0.1, tile_size=5)
    assert np.isnan(loss)


# Every configuration of the loss that an experiment can have.
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
    "kept": {"tile_size": "auto"},
    "kept all": {"tile_size": "auto", "pair_groups": True, "negatives_fraction": 0.5},
    "kept bfloat16": {"tile_size": "auto", "matmul_dtype": "bfloat16"},
    "mean, not smooth": {"label_smoothing": 0.0, "reduction": "mean"},
}


def in_even_rows(options, xla):
    """Loss and gradients of 14 rows, which halves divide, in float32."""
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.ci if name == "tiled all" else pytest.mark.release
        )
        for name in CONFIGURATIONS
    ],
)
def test_each_configuration_compiles_with_xla(name):
    """A stand-in for TPUs, which compile the same graphs."""
    options = CONFIGURATIONS[name]
    ours, _ = in_even_rows(options, xla=True)
    theirs, _ = in_even_rows(options, xla=False)
    # float32; bfloat16 products may be rounded before or after they are added up.
    assert_equal(ours, theirs, 2e-2 if "bfloat16" in name else 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "tiled all",
        pytest.param("plain all", marks=pytest.mark.ci),
        pytest.param("kept all", marks=pytest.mark.ci),
    ],
)
def test_no_operation_has_an_output_of_unknown_length(name):
    """A TPU's program knows all sizes; that of tf.unique's output it can't."""
    _, graph = in_even_rows(CONFIGURATIONS[name], xla=None)
    nodes = list(graph.as_graph_def().node)
    nodes += [n for f in graph.as_graph_def().library.function for n in f.node_def]
    unknown = {"Unique", "UniqueV2", "UniqueWithCounts", "Where", "ListDiff"}
    assert not unknown & {node.op for node in nodes}


def test_groups_may_have_any_numbers():
    images, texts = unit_rows(ROWS, 6, 19), unit_rows(ROWS, 6, 20)
    small = np.array([2, 0, 2, 3, 0, 1, 4, 4, 5, 3, 0, 6, 2])
    large = np.array([-(2**62), -7, 0, 7, 2**40, 2**61, 2**62])[[5, 3, 0, 1, 2, 4, 6]]
    expected = run(images, texts, 0.1, pair_groups=small, tile_size=5)
    loss = run(images, texts, 0.1, pair_groups=large[small], tile_size=5)
    assert_equal(loss, expected, 1e-12)
    one = (images[:1], texts[:1], 0.1)
    groups = tf.constant([2**62], tf.int64)
    plain = contrastive_loss(*one, pair_groups=groups)
    tiled = contrastive_loss(*one, pair_groups=groups, tile_size=5)
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


@pytest.mark.parametrize("tile_size", [5, "auto"])
@pytest.mark.ci
def test_bfloat16_products_are_near(tile_size):
    images, texts = unit_rows(ROWS, 6, 19), unit_rows(ROWS, 6, 20)
    exact = run(images, texts, 1 / 16, tf.float32)
    rounded = run(
        images, texts, 1 / 16, tf.float32, tile_size=tile_size, matmul_dtype="bfloat16"
    )
    differences = [
        np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        for ours, theirs in zip(rounded, exact, strict=True)
    ]
    # 8 bits of mantissa round a logit of 16 by up to 1 / 32.
    assert 1e-5 < max(differences) < 0.05


def test_equals_open_clip():
    """Its answers are recorded: `tests.helpers.recorded_oracles` says how."""
    [(question, answer)] = recorded("open_clip_loss")
    images, texts = question["images"], question["texts"]
    temperature = float(question["temperature"])
    loss, *gradients = run(
        images, texts, temperature, tile_size=5, label_smoothing=0.0, reduction="mean"
    )
    assert float(loss) == pytest.approx(float(answer["loss"]), rel=1e-11)
    for ours, name in zip(gradients, ("images", "texts"), strict=False):
        np.testing.assert_allclose(ours, answer[name], rtol=1e-9, atol=1e-12)


@pytest.mark.release
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_equal_one_device_in_little_memory(replicas):
    """Real MirroredStrategy on logical CPUs, in a process of its own."""
    process = subprocess.run(
        [sys.executable, os.fspath(SCRIPT), str(replicas)],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    lines = [line.split() for line in process.stdout.splitlines()]
    cases = [line for line in lines if line[:1] == ["replicas"]]
    assert len(cases) == 5
    for line in cases:
        # Both sides are float64, so that only the order of sums differs.
        assert float(line[-1]) < 1e-11, line
    (memory,) = [line[-1] for line in lines if line[:1] == ["memory"]]
    # The logits of 8,192 pairs take 256 MiB in float32, a tile of 512 1 MiB:
    # 28 MiB in all when this was written.
    assert float(memory) < 80

"""Tests of Muon on matrices, which compare it with Keras, and on other kernels."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.optimizers import AdamW, Muon
from align_keras.optimizers.adamw import orthogonalized

# Each Newton–Schulz step increases rounding errors of float32, since the slope of its
# polynomial at 0 is 3.4.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def variable(values, path):
    *scopes, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        return keras.Variable(values, dtype="float32", name=name)


def random_arrays(*shapes):
    random = np.random.default_rng(1)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def train(optimizer, starts, paths, steps=5):
    """Returns the weights after steps with the same gradients for all optimizers."""
    random = np.random.default_rng(0)
    variables = [
        variable(start, path) for start, path in zip(starts, paths, strict=True)
    ]
    for _ in range(steps):
        gradients = [random.normal(size=start.shape) for start in starts]
        optimizer.apply([tf.constant(g, "float32") for g in gradients], variables)
    return [weight.numpy() for weight in variables]


def test_updates_of_matrices_equal_those_of_keras():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 20)
    arguments = {"weight_decay": 0.3, "momentum": 0.9}
    reference = keras.optimizers.Muon(schedule, adam_weight_decay=0.3, **arguments)
    reference.exclude_from_weight_decay(var_names=["bias"])
    optimizer = Muon(schedule, **arguments)
    starts = random_arrays((6, 3), (3, 8), (5,), (7, 4))
    paths = ["a/kernel", "b/kernel", "a/bias", "token_embedding/embeddings"]
    weights = train(optimizer, starts, paths)
    reference_weights = train(reference, starts, paths)
    for start, actual, expected in zip(starts, weights, reference_weights, strict=True):
        np.testing.assert_allclose(actual, expected, **TOLERANCE)
        assert np.abs(actual - start).max() > 0.02


@pytest.mark.parametrize(
    ("path", "shape", "matrix"),
    [
        ("self_attention_layer/query/kernel", (6, 2, 4), (6, 8)),
        ("self_attention_layer/attention_output/kernel", (2, 4, 6), (8, 6)),
        ("project/kernel", (1, 1, 8, 3), (8, 3)),
        ("stem/kernel", (3, 3, 3, 4), (27, 4)),
    ],
)
def test_other_kernels_are_updated_as_matrices_of_inputs_by_outputs(
    path, shape, matrix
):
    (start,) = random_arrays(shape)
    (actual,) = train(Muon(0.05), [start], [path])
    (expected,) = train(Muon(0.05), [start.reshape(matrix)], ["kernel"])
    np.testing.assert_allclose(actual.reshape(matrix), expected, **TOLERANCE)


def test_adam_updates_depthwise_kernels_biases_and_selected_matrices():
    starts = random_arrays((3, 3, 4, 1), (6, 3), (2, 8))
    paths = ["block/depthwise/kernel", "projection/kernel", "attention/key/bias"]
    expected = train(AdamW(0.05, weight_decay=0.3), starts, paths)
    actual = train(Muon(0.05, weight_decay=0.3), starts, paths)
    for index in (0, 2):
        np.testing.assert_array_equal(actual[index], expected[index])
    assert np.abs(actual[1] - expected[1]).max() > 0.01
    by_adam = Muon(0.05, weight_decay=0.3, by_adam=["depthwise", "projection"])
    np.testing.assert_array_equal(train(by_adam, starts, paths)[1], expected[1])


@pytest.mark.parametrize("condition", [1e1, 1e6])
@pytest.mark.parametrize("shape", [(24, 24), (24, 47), (300, 24)])
def test_orthogonalized_matrices_equal_the_polynomials_of_the_singular_values(
    shape, condition
):
    random = np.random.default_rng(0)
    rank = min(shape)
    u, _ = np.linalg.qr(random.normal(size=(shape[0], rank)))
    v, _ = np.linalg.qr(random.normal(size=(shape[1], rank)))
    singular_values = np.geomspace(1.0, 1.0 / condition, rank)
    matrix = (u * singular_values) @ v.T
    expected = singular_values / np.linalg.norm(matrix)
    for _ in range(5):
        expected = 3.4445 * expected - 4.775 * expected**3 + 2.0315 * expected**5
    actual = orthogonalized(tf.constant(matrix, "float32")).numpy()
    # The steps increase rounding errors of float32 by up to 3.4⁵ = 485.
    np.testing.assert_allclose(actual, (u * expected) @ v.T, atol=5e-4)


def test_orthogonalized_matrices_are_nearly_orthogonal():
    for shape in ((8, 20), (20, 8), (5, 5)):
        (matrix,) = random_arrays(shape)
        u, _, vh = np.linalg.svd(matrix, full_matrices=False)
        actual = orthogonalized(tf.constant(matrix)).numpy()
        np.testing.assert_allclose(u.T @ actual @ vh.T, np.eye(min(shape)), atol=0.35)
    assert not orthogonalized(tf.zeros((3, 4))).numpy().any()

"""Tests that rematerialized layers have the same results as plain layers."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from align_keras.layers import MBConvBlock
from align_keras.models import ImageEncoder, TextEncoder

FROZEN = {"freeze_statistics": True}


def copy_state(source, target):
    """Copies all variables, including the dropout seeds."""
    for target_variable, variable in zip(
        target.variables, source.variables, strict=True
    ):
        target_variable.assign(variable)


def training_steps(layer, inputs, in_graph, steps=2):
    """Returns the outputs and gradients of training steps, and the final state."""

    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            # The gradient of a symmetric loss would vanish in batch normalization.
            loss = tf.reduce_sum(outputs**3)
        variables = [inputs, *(v.value for v in layer.trainable_variables)]
        return [outputs, *tape.gradient(loss, variables)]

    if in_graph:
        step = tf.function(step)
    results = [value.numpy() for _ in range(steps) for value in step(inputs)]
    return results + [v.numpy() for v in layer.non_trainable_variables]


def assert_equal(results, expected):
    for values, expected_values in zip(results, expected, strict=True):
        # The kernels are the same, but threads may sum a gradient in another order,
        # which changes the last bits of the largest element.
        scale = np.abs(expected_values).max() or 1.0
        np.testing.assert_allclose(
            values / scale, expected_values / scale, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    "in_graph", [pytest.param(False, marks=pytest.mark.release), True]
)
@pytest.mark.parametrize(
    "arguments",
    [
        {"filters_out": 8, "drop_connect_rate": 0.5},
        {"filters_out": 8, "normalization": FROZEN, "squeeze_ratio": 0.0},
    ],
)
def test_a_rematerialized_block_equals_a_plain_block(arguments, in_graph):
    plain = MBConvBlock(8, **arguments)
    block = MBConvBlock(8, **arguments, rematerialize=True)
    for layer in (plain, block):
        layer.build((None, 6, 6, 8))
    copy_state(plain, block)
    inputs = keras.random.normal((16, 6, 6, 8), seed=0)
    expected = training_steps(plain, inputs, in_graph)
    assert_equal(training_steps(block, inputs, in_graph), expected)
    if "drop_connect_rate" in arguments:
        # Drop-connect drops the branch of some examples, and of different examples in
        # the second step.
        half = len(expected[: -len(plain.non_trainable_variables)]) // 2
        dropped = [
            np.abs(outputs - inputs).max(axis=(1, 2, 3)) == 0
            for outputs in (expected[0], expected[half])
        ]
        assert 0 < dropped[0].sum() < 16
        assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize(
    "in_graph", [False, pytest.param(True, marks=pytest.mark.release)]
)
def test_a_rematerialized_encoder_equals_a_plain_encoder(in_graph):
    arguments = {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "num_stages": 3,
        "image_size": 64,
        "drop_connect_rate": 0.5,
    }
    plain = ImageEncoder(**arguments)
    encoder = ImageEncoder(**arguments, rematerialize=True)
    copy_state(plain, encoder)
    images = keras.random.uniform((8, 64, 64, 3), 0, 255, seed=0)
    expected = training_steps(plain, images, in_graph)
    assert_equal(training_steps(encoder, images, in_graph), expected)


def test_a_block_that_is_called_twice_ends_with_the_last_state():
    # The backward pass computes the first call last, starting from an earlier state.
    plain, block = MBConvBlock(8, 8), MBConvBlock(8, 8, rematerialize=True)
    for layer in (plain, block):
        layer.build((None, 6, 6, 8))
    copy_state(plain, block)
    states = []
    for layer in (plain, block):
        inputs = tf.Variable(keras.random.normal((16, 6, 6, 8), seed=0))
        with tf.GradientTape() as tape:
            outputs = layer(layer(inputs, training=True), training=True)
        results = [outputs, tape.gradient(outputs, inputs)]
        states.append([np.array(v) for v in (*results, *layer.non_trainable_variables)])
    assert_equal(*states)


def ancestors(nodes, name):
    """Returns the names of all nodes that a node depends on."""
    visited, stack = set(), [name]
    while stack:
        for source in nodes[stack.pop()].input:
            source = source.lstrip("^").split(":")[0]
            if source not in visited:
                visited.add(source)
                stack.append(source)
    return visited


def graph_of_step(block):
    """Returns the nodes of a step after the optimizations of Grappler, by name."""
    block.build((None, 6, 6, 8))

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            outputs = tf.cast(block(inputs, training=True), "float32")
            # The gradient of cosh is the only Sinh node, which marks its position.
            loss = tf.reduce_sum(tf.cosh(outputs))
        return tape.gradient(loss, [v.value for v in block.trainable_variables])

    inputs = keras.random.normal((2, 6, 6, 8), seed=0)
    context.context().enable_run_metadata()
    try:
        step(inputs)
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    # Casts that run eagerly have separate graphs, which are smaller.
    nodes = max((graph.post_optimization_graph.node for graph in graphs), key=len)
    return {node.name: node for node in nodes}


def waits_for_gradient(nodes, name):
    return any(nodes[source].op == "Sinh" for source in ancestors(nodes, name))


def test_the_second_computation_depends_on_the_upstream_gradient():
    """If it was merged or started early, the activations would stay in memory."""
    nodes = graph_of_step(MBConvBlock(8, 8, rematerialize=True))
    waits = [
        waits_for_gradient(nodes, name)
        for name, node in nodes.items()
        if node.op == "DepthwiseConv2dNative"
    ]
    assert sorted(waits) == [False, True]


def test_new_copies_of_weights_depend_on_the_upstream_gradient():
    """Otherwise the 16-bit copies of all blocks would be in memory at the same time."""
    block = MBConvBlock(8, 8, rematerialize=True, dtype="mixed_bfloat16")
    nodes = graph_of_step(block)
    waits = [
        waits_for_gradient(nodes, name)
        for name, node in nodes.items()
        if node.op == "Cast"
        and nodes[node.input[0].split(":")[0]].op == "ReadVariableOp"
        and node.attr["DstT"].type == tf.bfloat16.as_datatype_enum
    ]
    # There are 7 weights: three convolution kernels, and the kernels and biases of two
    # dense layers.
    assert sorted(waits) == [False] * 7 + [True] * 7


@pytest.mark.ci
def test_a_rematerialized_text_encoder_equals_a_plain_text_encoder():
    def encoder(rematerialize):
        return TextEncoder(
            vocabulary_size=30,
            num_layers=2,
            hidden_dim=16,
            num_heads=2,
            intermediate_dim=32,
            projection_dim=8,
            dropout=0.5,
            sequence_length=6,
            rematerialize=rematerialize,
        )

    plain, rematerialized = encoder(False), encoder(True)
    copy_state(plain, rematerialized)
    token_ids = keras.random.randint((8, 6), 0, 30, seed=0)
    mask = keras.ops.cast(token_ids > 5, "int32")
    inputs = {"token_ids": token_ids, "padding_mask": mask}

    def results_of(model):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                outputs = model(inputs, training=True)
                loss = tf.reduce_sum(outputs**3)
            variables = [v.value for v in model.trainable_variables]
            gradients = tape.gradient(loss, variables)
            return [outputs, *map(tf.convert_to_tensor, gradients)]

        results = [value.numpy() for _ in range(2) for value in step()]
        return results + [v.numpy() for v in model.non_trainable_variables]

    actual, expected = results_of(rematerialized), results_of(plain)
    # The tolerance is relative to the largest of all values, since the gradient of the
    # key bias consists only of rounding errors.
    scale = max(
        np.abs(values).max() for values in expected if values.dtype == "float32"
    )
    for values, expected_values in zip(actual, expected, strict=True):
        np.testing.assert_allclose(values, expected_values, atol=1e-6 * scale)
    assert TextEncoder.from_config(rematerialized.get_config()).rematerialize


@pytest.mark.ci
def test_xla_does_not_merge_both_computations():
    """XLA merges equal operations and ignores control dependencies."""

    def count_products(**arguments):
        """Counts convolutions and matrix products after the optimizations of XLA."""
        block = MBConvBlock(8, 8, **arguments)
        block.build((None, 6, 6, 8))

        @tf.function(jit_compile=True)
        def step(inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.cosh(block(inputs, training=True)))
            return tape.gradient(loss, [v.value for v in block.trainable_variables])

        inputs = keras.random.normal((2, 6, 6, 8), seed=0)
        program = step.experimental_get_compiler_ir(inputs)(stage="optimized_hlo")
        return len(re.findall(r"= \S+ (?:convolution|dot)\(", program))

    # The block has three convolutions and two dense layers.
    assert count_products(rematerialize=True) == count_products() + 5

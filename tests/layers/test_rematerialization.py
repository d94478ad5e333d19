"""Rematerialized blocks against plain ones: values, gradients and state."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from align_keras.layers import MBConvBlock
from align_keras.models import ImageEncoder, TextEncoder

FROZEN = {"freeze_statistics": True}


def same_state(layer, other):
    """Copies all variables, the seeds of dropout included."""
    for ours, theirs in zip(layer.variables, other.variables, strict=True):
        ours.assign(theirs)


def training_steps(layer, inputs, in_graph, steps=2):
    """Returns the outputs and gradients of some steps, and the state after them."""

    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            # Not symmetric, so that no gradient vanishes by batch normalization.
            loss = tf.reduce_sum(outputs**3)
        variables = [inputs, *(v.value for v in layer.trainable_variables)]
        return [outputs, *tape.gradient(loss, variables)]

    if in_graph:
        step = tf.function(step)
    results = [value.numpy() for _ in range(steps) for value in step(inputs)]
    return results + [v.numpy() for v in layer.non_trainable_variables]


def assert_equal(results, expected):
    for actual, wanted in zip(results, expected, strict=True):
        # The same kernels on the same numbers; only the order in which threads
        # add up a gradient may differ: some ulp of the largest element.
        scale = np.abs(wanted).max() or 1.0
        np.testing.assert_allclose(actual / scale, wanted / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "in_graph", [pytest.param(False, marks=pytest.mark.release), True]
)
@pytest.mark.parametrize(
    "arguments",
    [
        {"filters_out": 8, "drop_connect_rate": 0.5},
        {"filters_out": 12, "strides": 2, "kernel_size": 5},
        {"filters_out": 8, "normalization": FROZEN, "squeeze_ratio": 0.0},
    ],
)
def test_block_equals_the_plain_one(arguments, in_graph):
    plain = MBConvBlock(8, **arguments)
    block = MBConvBlock(8, **arguments, rematerialize=True)
    for layer in (plain, block):
        layer.build((None, 6, 6, 8))
    same_state(block, plain)
    inputs = keras.random.normal((16, 6, 6, 8), seed=0)
    expected = training_steps(plain, inputs, in_graph)
    assert_equal(training_steps(block, inputs, in_graph), expected)
    if "drop_connect_rate" in arguments:
        # Some samples lost their branch, and other ones in the second step.
        half = len(expected[: -len(plain.non_trainable_variables)]) // 2
        dropped = [
            np.abs(outputs - inputs).max(axis=(1, 2, 3)) == 0
            for outputs in (expected[0], expected[half])
        ]
        assert 0 < dropped[0].sum() < 16
        assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("in_graph", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_encoder_equals_the_plain_one(in_graph):
    arguments = {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "num_stages": 3,
        "image_size": 64,
        "drop_connect_rate": 0.5,
    }
    plain = ImageEncoder(**arguments)
    encoder = ImageEncoder(**arguments, rematerialize=True)
    same_state(encoder, plain)
    images = keras.random.uniform((8, 64, 64, 3), 0, 255, seed=0)
    expected = training_steps(plain, images, in_graph)
    assert_equal(training_steps(encoder, images, in_graph), expected)


def test_block_used_twice_leaves_the_last_state():
    # The first call's second computation runs last, from a state that is past.
    plain, block = MBConvBlock(8, 8), MBConvBlock(8, 8, rematerialize=True)
    for layer in (plain, block):
        layer.build((None, 6, 6, 8))
    same_state(block, plain)
    states = []
    for layer in (plain, block):
        inputs = tf.Variable(keras.random.normal((16, 6, 6, 8), seed=0))
        with tf.GradientTape() as tape:
            outputs = layer(layer(inputs, training=True), training=True)
        results = [outputs, tape.gradient(outputs, inputs)]
        states.append([np.array(v) for v in (*results, *layer.non_trainable_variables)])
    assert_equal(*states)


def ancestors(nodes, name):
    """Returns the names of all nodes that a node waits for."""
    found, waiting = set(), [name]
    while waiting:
        for source in nodes[waiting.pop()].input:
            source = source.lstrip("^").split(":")[0]
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def graph_of_step(block):
    """Returns the nodes of a step as Grappler left it, by their names."""
    block.build((None, 6, 6, 8))

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            outputs = tf.cast(block(inputs, training=True), "float32")
            # Its gradient is a kind of node that occurs nowhere else.
            loss = tf.reduce_sum(tf.cosh(outputs))
        return tape.gradient(loss, [v.value for v in block.trainable_variables])

    inputs = keras.random.normal((2, 6, 6, 8), seed=0)
    context.context().enable_run_metadata()
    try:
        step(inputs)
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    # Casts that run eagerly have graphs of their own.
    nodes = max((graph.post_optimization_graph.node for graph in graphs), key=len)
    return {node.name: node for node in nodes}


def waits_for_gradient(nodes, name):
    return any(nodes[source].op == "Sinh" for source in ancestors(nodes, name))


def test_graph_computes_again_and_only_when_the_gradient_arrives():
    """Merged with the first or run early, it would keep its activations alive."""
    nodes = graph_of_step(MBConvBlock(8, 8, rematerialize=True))
    waits = [
        waits_for_gradient(nodes, name)
        for name, node in nodes.items()
        if node.op == "DepthwiseConv2dNative"
    ]
    assert sorted(waits) == [False, True]


def test_copies_of_weights_are_made_again_when_the_gradient_arrives():
    """Made early, the 16-bit copies of all blocks would be in memory at once."""
    block = MBConvBlock(8, 8, rematerialize=True, dtype="mixed_bfloat16")
    nodes = graph_of_step(block)
    waits = [
        waits_for_gradient(nodes, name)
        for name, node in nodes.items()
        if node.op == "Cast"
        and nodes[node.input[0].split(":")[0]].op == "ReadVariableOp"
        and node.attr["DstT"].type == tf.bfloat16.as_datatype_enum
    ]
    # Of each convolution and of both dense layers' kernels and biases.
    assert sorted(waits) == [False] * 7 + [True] * 7


@pytest.mark.ci
def test_text_encoder_equals_the_plain_one():
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

    plain, again = encoder(False), encoder(True)
    same_state(again, plain)
    token_ids = keras.random.randint((8, 6), 0, 30, seed=0)
    mask = keras.ops.cast(token_ids > 5, "int32")
    inputs = {"token_ids": token_ids, "padding_mask": mask}

    def gradients(model):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                outputs = model(inputs, training=True)
                loss = tf.reduce_sum(outputs**3)
            variables = [v.value for v in model.trainable_variables]
            found = tape.gradient(loss, variables)
            return [outputs, *map(tf.convert_to_tensor, found)]

        results = [value.numpy() for _ in range(2) for value in step()]
        return results + [v.numpy() for v in model.non_trainable_variables]

    actual, expected = gradients(again), gradients(plain)
    # Of all, since the key's bias has no gradient but rounding.
    scale = max(
        np.abs(wanted).max() for wanted in expected if wanted.dtype == "float32"
    )
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * scale)
    assert TextEncoder.from_config(again.get_config()).rematerialize


@pytest.mark.ci
def test_xla_computes_again_too():
    """It merges equal operations, whatever control dependencies there are."""

    def products(**arguments):
        """Counts convolutions and matrix products as XLA left them."""
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

    # Three convolutions and two dense layers.
    assert products(rematerialize=True) == products() + 5

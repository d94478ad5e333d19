"""Tests that compare computed costs of encoders with their graphs."""

import collections

import pytest
import tensorflow as tf

from align_keras.models import ImageEncoder, TextEncoder
from align_keras.presets.tower_costs import image_tower_cost, text_tower_cost

B0 = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 64}
BERT = {
    "num_layers": 2,
    "hidden_dim": 96,
    "num_heads": 3,
    "intermediate_dim": 200,
    "vocabulary_size": 500,
    "sequence_length": 40,
    "projection_dim": 16,
}
ROWS = 2
TOKENS = {
    name: tf.TensorSpec((ROWS, 40), tf.int32) for name in ("token_ids", "padding_mask")
}


def learned(encoder):
    return sum(variable.shape.num_elements() for variable in encoder.trainable_weights)


IMAGE_CASES = {
    "b0": {},
    "projected": {"projection_dim": 16},
    "lite": {"lite": True, "projection_dim": 16},
    "classes": {"num_classes": 10, "projection_dim": 16},
    "locked": {"locked": True, "projection_dim": 16},
    "rematerialized": {"rematerialize": True},
    "odd": {"image_size": 75},
    "odd, Hugging Face": {"image_size": 75, "padding": "hugging_face"},
    "odd lite": {"image_size": 75, "lite": True},
    "last block": {"training": "last_blocks", "blocks": 1, "projection_dim": 16},
    "rematerialized last blocks": {
        "training": "last_blocks",
        "blocks": 6,
        "rematerialize": True,
    },
    "narrow": {"width_coefficient": 0.5, "depth_coefficient": 0.5},
}
TEXT_CASES = {
    "bert": {},
    "distil_bert": {"architecture": "distil_bert"},
    "albert": {"architecture": "albert"},
    "electra": {"architecture": "electra"},
    "electra of 128": {"architecture": "electra", "hidden_dim": 128, "num_heads": 4},
    "rematerialized albert": {"architecture": "albert", "rematerialize": True},
    "mean": {"pooling": "mean"},
    "no dropout": {"pooling": "mean", "dropout": 0.0},
    "rematerialized": {"rematerialize": True},
    "locked": {"locked": True},
    "last block": {"training": "last_blocks", "blocks": 1},
    "unprojected": {"projection_dim": None, "max_sequence_length": 64},
}


def image_case(name):
    arguments = {**B0, **IMAGE_CASES[name]}
    size = arguments["image_size"]
    pixels = tf.TensorSpec((ROWS, size, size, 3), tf.uint8)
    return _encoder(ImageEncoder, arguments), image_tower_cost(**arguments), pixels


def text_case(name):
    arguments = {**BERT, **TEXT_CASES[name]}
    return _encoder(TextEncoder, arguments), text_tower_cost(**arguments), TOKENS


def _encoder(encoder_class, arguments):
    """Builds an encoder in the mode `training` of the arguments."""
    arguments = dict(arguments)
    mode = arguments.pop("training", None)
    numbers = {n: arguments.pop(n) for n in ("blocks", "rank") if n in arguments}
    encoder = encoder_class(**arguments)
    if mode is not None:
        encoder.set_training(mode, **numbers)
    return encoder


@pytest.mark.parametrize("mode", ["frozen", "projection", "lora"])
def test_learned_parameters_of_each_mode(mode):
    options = {"training": mode, "rank": 3}
    small = {**B0, "width_coefficient": 0.35, "depth_coefficient": 0.4}
    for encoder_class, cost_function, sizes in (
        (ImageEncoder, image_tower_cost, {**small, "projection_dim": 8}),
        (ImageEncoder, image_tower_cost, {**small, "lite": True}),
        (TextEncoder, text_tower_cost, BERT),
        (TextEncoder, text_tower_cost, {**BERT, "architecture": "albert"}),
    ):
        encoder = _encoder(encoder_class, {**sizes, **options})
        cost = cost_function(**sizes, **options)
        assert learned(encoder) == cost.learned
        assert encoder.count_params() == cost.parameters
        assert (cost.saved_values > 0) == (mode == "lora")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.ci if name == "lite" else pytest.mark.release,
        )
        for name in IMAGE_CASES
    ],
)
def test_costs_of_image_encoders_equal_those_of_their_graphs(name):
    check_tower(*image_case(name))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.release
            if name not in ("bert", "albert", "rematerialized", "last block")
            else (),
        )
        for name in TEXT_CASES
    ],
)
def test_costs_of_text_encoders_equal_those_of_their_graphs(name):
    check_tower(*text_case(name))


def check_tower(encoder, cost, spec):
    assert encoder.count_params() == cost.parameters
    assert learned(encoder) == cost.learned
    forward, backward, saved_bytes = graph_costs(encoder, spec)
    assert forward == ROWS * cost.flops
    # The first trained operation has no gradient with respect to its input. This is the
    # projection in a locked encoder.
    is_partial = cost.learned_flops < cost.flops
    estimate = ROWS * (2 * cost.learned_flops + cost.recomputed_flops)
    assert backward <= estimate
    assert backward == pytest.approx(estimate, rel=0.55 if is_partial else 0.04)
    if cost.saved_values:
        # The cost doesn't count dropout masks and the vectors of
        # squeeze-and-excitation.
        estimate = ROWS * 4 * cost.saved_values
        assert saved_bytes == pytest.approx(estimate, rel=0.2 if is_partial else 0.1)


@pytest.mark.parametrize(
    "tower",
    [
        pytest.param("image", marks=pytest.mark.release),
        pytest.param("text", marks=pytest.mark.ci),
    ],
)
def test_16_bit_copies_of_rematerialized_blocks_are_not_saved(tower):
    """The backward pass reads few of the 16-bit copies of the forward pass."""
    mixed = {"rematerialize": True, "projection_dim": 16}
    if tower == "image":
        encoder = ImageEncoder(**B0, **mixed, dtype="mixed_bfloat16")
        cost = image_tower_cost(**B0, **mixed)
        spec = tf.TensorSpec((ROWS, 64, 64, 3), tf.uint8)
        blocks = encoder.blocks
    else:
        arguments = {**BERT, **mixed}
        encoder = TextEncoder(**arguments, dtype="mixed_bfloat16")
        cost = text_tower_cost(**arguments)
        spec = TOKENS
        blocks = encoder.backbone.transformer_layers
    block_weights = [block.count_params() for block in blocks]
    outside_blocks = encoder.count_params() - sum(block_weights)
    assert cost.copies == outside_blocks + 2 * max(block_weights)
    forward, backward = graph_passes(encoder, spec)
    readers = set(backward)
    copies = {
        operation.outputs[0].ref(): operation.outputs[0]
        for operation in forward
        if operation.type == "Cast"
        and operation.inputs[0].op.type == "ReadVariableOp"
        and not readers.isdisjoint(operation.outputs[0].consumers())
    }
    copied = sum(copy.shape.num_elements() for copy in copies.values())
    assert 0 < copied <= outside_blocks


def graph_costs(encoder, spec):
    """Returns the costs of the graph of a training step.

    They are the floating-point operations of the forward pass, those of the backward
    pass, and the bytes that the backward pass reads from the forward pass.
    """
    forward, backward = graph_passes(encoder, spec)
    return (
        sum(map(flops, forward)),
        sum(map(flops, backward)),
        count_saved_bytes(forward, backward),
    )


def graph_passes(encoder, spec):
    """Returns the operations of the forward and of the backward pass of a step."""
    variables = [variable.value for variable in encoder.trainable_variables]
    first_of_backward = []

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(encoder(inputs, training=True)))
        graph = tf.compat.v1.get_default_graph()
        first_of_backward.append(len(graph.get_operations()))
        return tape.gradient(loss, variables)

    graph = step.get_concrete_function(spec).graph
    operations, (cut,) = graph.get_operations(), first_of_backward
    used = with_ancestors([output.op for output in graph.outputs])
    forward = [operation for operation in operations[:cut] if operation in used]
    backward = [operation for operation in operations[cut:] if operation in used]
    return forward, backward


def with_ancestors(operations):
    """Returns the operations and all operations that they depend on."""
    visited, stack = set(), list(operations)
    while stack:
        operation = stack.pop()
        if operation not in visited:
            visited.add(operation)
            stack += [tensor.op for tensor in operation.inputs]
            stack += operation.control_inputs
    return visited


def flops(operation):
    """Counts two operations for each multiplication of a convolution or product."""
    kind = operation.type
    if not kind.startswith(("Einsum", "MatMul", "BatchMatMul", "Conv2D", "Depthwise")):
        return 0
    shapes = [tensor.shape.as_list() for tensor in operation.inputs]
    if kind == "Einsum":
        operands, _, _ = operation.get_attr("equation").decode().partition("->")
        sizes = {}
        for letters, shape in zip(operands.split(","), shapes, strict=True):
            sizes.update(zip(letters, shape, strict=True))
        return 2 * product(sizes.values()) if "," in operands else 0
    if kind == "MatMul" and shapes[0][0] == 1:
        # This product is a sum in the gradient of batch normalization.
        return 0
    if kind in ("MatMul", "BatchMatMulV2"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        inner = shapes[0][-2 if transposed else -1]
        return 2 * inner * operation.outputs[0].shape.num_elements()
    if kind.endswith("BackpropInput"):
        kernel, outputs = shapes[1], shapes[2]
    elif kind.endswith("BackpropFilter"):
        sizes, outputs = operation.inputs[1], shapes[2]
        kernel = tf.get_static_value(sizes)
        if kernel is None:  # `sizes` is one of the outputs of ShapeN.
            kernel = sizes.op.inputs[sizes.value_index].shape.as_list()
    else:
        kernel, outputs = shapes[1], operation.outputs[0].shape.as_list()
    # The third number of a depthwise kernel is the number of channels, which the
    # operation doesn't sum over.
    summed = kernel[:2] if kind.startswith("Depthwise") else kernel[:3]
    return 2 * int(product(summed)) * product(outputs)


def product(numbers):
    total = 1
    for number in numbers:
        total *= number
    return total


def count_saved_bytes(forward, backward):
    """Returns the bytes of the per-row tensors that the backward pass reads."""
    # The outputs of these operations share the memory of their inputs.
    views = {"Reshape", "Identity", "StopGradient", "ExpandDims", "Squeeze"}
    forward, tensors = set(forward), collections.OrderedDict()
    for operation in backward:
        for tensor in () if operation.type == "Shape" else operation.inputs:
            while tensor.op.type in views:
                tensor = tensor.op.inputs[0]
            shape = tensor.shape
            # The first axis of a per-row tensor is the rows, or the tokens of all rows.
            if tensor.op in forward and shape.rank and shape[0] in (ROWS, ROWS * 40):
                if tensor.op.type not in ("Placeholder", "Const", "ReadVariableOp"):
                    tensors[tensor.ref()] = shape.num_elements() * tensor.dtype.size
    # TensorFlow 2.22 saves the input of a layer normalization minus its mean, and the
    # costs count these values. Earlier versions compute them again from the input,
    # which is an input of this operation.
    differences = [
        tensors.get(operation.inputs[0].ref(), 0)
        for operation in forward
        if operation.type == "SquaredDifference"
    ]
    return sum(tensors.values()) + sum(differences)


def test_rematerialization_lowers_the_peak_to_that_of_the_largest_block():
    plain, rematerialized = (
        image_tower_cost(**B0, rematerialize=rematerialize)
        for rematerialize in (False, True)
    )
    assert plain.saved_values <= plain.peak < 1.01 * plain.saved_values
    assert rematerialized.saved_values < rematerialized.peak < 0.5 * plain.peak
    # The largest block is the first one with an expansion. While it is computed again,
    # the memory has three of its tensors of 32 × 32 × 96 values, two gradients of this
    # size, the saved values of the stem and the output of the first block.
    largest = 96 * 32 * 32
    stem = 3 * 64 * 64 + 3 * 32 * 32 * 32
    first_block = 16 * 32 * 32
    assert rematerialized.peak == stem + first_block + 3 * largest + 2 * largest

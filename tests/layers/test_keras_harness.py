"""Runs the test harness of Keras on the public layers.

KerasHub's harness, in `tests/models/test_keras_hub_harness.py`, compares the outputs
and the numbers of weights. Keras's harness also calls the layers with their arguments,
trains them, and checks the dtypes of mixed precision, the restored attributes and the
seed generators.
"""

import keras
import numpy as np
import pytest
from keras.src import testing

from align_keras import layers
from align_keras.layers import (
    Activation,
    FusedBatchNormalization,
    L2Normalization,
    MBConvBlock,
    Temperature,
)

# The harness trains layers without weights too, and passes a generator to `fit`.
pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights"),
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
]

IMAGES = (2, 6, 6, 8)
# Layer, arguments, shape of the inputs, arguments of `run_layer_test`. The option
# `assert_built_after_instantiation` is off by default. It needs a private method of
# Keras, which marks layers without weights as built.
CASES = {
    "silu": (
        Activation,
        {"activation": "silu"},
        (2, 3),
        {"supports_masking": True, "call_kwargs": {"training": True}},
    ),
    "gelu": (Activation, {"activation": "gelu"}, (2, 3), {}),
    "approximate gelu": (
        Activation,
        {"activation": "gelu_approximate"},
        (2, 3),
        {"call_kwargs": {"training": True}},
    ),
    "batch normalization": (
        FusedBatchNormalization,
        {"center": False, "momentum": 0.9},
        IMAGES,
        {
            "call_kwargs": {"training": True},
            "expected_num_trainable_weights": 1,
            "expected_num_non_trainable_weights": 2,
            "supports_masking": True,
        },
    ),
    "ghost batches": (
        FusedBatchNormalization,
        {"virtual_batch_size": 1},
        IMAGES,
        {"call_kwargs": {"training": True}},
    ),
    "frozen statistics": (
        FusedBatchNormalization,
        {"freeze_statistics": True, "scale": False},
        IMAGES,
        {"call_kwargs": {"training": True}, "expected_num_trainable_weights": 1},
    ),
    "groups of replicas": (
        FusedBatchNormalization,
        {"replicas_per_group": "auto"},
        IMAGES,
        {},
    ),
    "first axis": (FusedBatchNormalization, {"axis": 1}, IMAGES, {}),
    "vectors": (FusedBatchNormalization, {}, (2, 8), {}),
    "unit length": (L2Normalization, {"epsilon": 1e-6}, (2, 8), {}),
    "residual block": (
        MBConvBlock,
        {
            "filters_in": 8,
            "filters_out": 8,
            "kernel_size": 5,
            "drop_connect_rate": 0.2,
            "normalization": {"momentum": 0.9},
        },
        IMAGES,
        {
            "call_kwargs": {"training": True},
            "expected_num_trainable_weights": 13,
            "expected_num_non_trainable_weights": 6,
            "expected_num_seed_generators": 1,
        },
    ),
    "strided block": (
        MBConvBlock,
        {
            "filters_in": 8,
            "filters_out": 12,
            "strides": 2,
            "expand_ratio": 1,
            "activation": "relu6",
            "padding": "hugging_face",
        },
        IMAGES,
        {"expected_output_shape": (2, 3, 3, 12), "expected_num_seed_generators": 0},
    ),
    "rematerialized block": (
        MBConvBlock,
        {
            "filters_in": 8,
            "filters_out": 8,
            "squeeze_ratio": 0.0,
            "rematerialize": True,
        },
        IMAGES,
        {"call_kwargs": {"training": True}, "expected_num_trainable_weights": 9},
    ),
    "temperature": (
        Temperature,
        {"initial_temperature": 0.5},
        (4,),
        {"expected_num_trainable_weights": 1},
    ),
    "fixed temperature": (
        Temperature,
        {"trainable": False},
        (4,),
        {
            "expected_num_trainable_weights": 0,
            "expected_num_non_trainable_weights": 1,
        },
    ),
}


class Harness(testing.TestCase):
    __test__ = False

    def runTest(self):
        """Allows an instance without a test method."""


@pytest.fixture
def harness():
    was_filtering = keras.config.is_traceback_filtering_enabled()
    harness = Harness()
    harness.setUp()
    yield harness
    harness.doCleanups()
    # `setUp` disables the filter for the whole process.
    if was_filtering:
        keras.config.enable_traceback_filtering()


@pytest.mark.parametrize("name", CASES)
def test_the_harness_of_keras_passes(harness, name):
    layer, arguments, shape, options = CASES[name]
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    harness.run_layer_test(
        layer,
        init_kwargs=arguments,
        input_data=keras.ops.convert_to_tensor(inputs),
        **{"expected_output_shape": shape, **options},
    )
    # The harness doesn't notice if an argument is missing in the configuration.
    assert layer(**arguments).get_config().items() >= arguments.items()


def test_outputs_are_as_expected(harness):
    rows = keras.ops.array([[3.0, 4.0], [0.0, 0.0]])
    for layer, arguments, expected in (
        (Activation, {"activation": "relu6"}, [[3.0, 4.0], [0.0, 0.0]]),
        (L2Normalization, {}, [[0.6, 0.8], [0.0, 0.0]]),
        (Temperature, {"initial_temperature": 0.5}, [[6.0, 8.0], [0.0, 0.0]]),
    ):
        harness.run_layer_test(
            layer,
            init_kwargs=arguments,
            input_data=rows,
            expected_output=keras.ops.array(expected),
        )


def test_each_public_layer_is_tested():
    tested = {layer.__name__ for layer, *_ in CASES.values()}
    assert tested == set(layers.__all__)

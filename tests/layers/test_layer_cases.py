"""Tests of the public layers with the harness of `tests.helpers.model_case`."""

import keras

from align_keras import layers
from align_keras.layers import (
    Activation,
    FusedBatchNormalization,
    L2Normalization,
    MBConvBlock,
    Temperature,
)
from tests.helpers.model_case import LayerCase


class ActivationTest(LayerCase):
    __test__ = True
    cls = Activation
    input_shape = (2, 3)

    def arguments(self):
        return {"activation": "gelu_approximate"}


class FusedBatchNormalizationTest(LayerCase):
    __test__ = True
    cls = FusedBatchNormalization
    trainable_weights = 1
    non_trainable_weights = 2
    non_trainable_variables = 2

    def arguments(self):
        return {"center": False, "momentum": 0.9}


class GhostBatchesTest(FusedBatchNormalizationTest):
    trainable_weights = 2

    def arguments(self):
        return {"virtual_batch_size": 1}


class FrozenStatisticsTest(FusedBatchNormalizationTest):
    def arguments(self):
        return {"freeze_statistics": True, "scale": False}


class FirstAxisTest(FusedBatchNormalizationTest):
    trainable_weights = 2

    def arguments(self):
        return {"axis": 1}


class L2NormalizationTest(LayerCase):
    __test__ = True
    cls = L2Normalization
    input_shape = (2, 2)
    outputs = [[0.6, 0.8], [0.0, 0.0]]

    def arguments(self):
        return {"epsilon": 1e-6}

    def inputs(self):
        return keras.ops.array([[3.0, 4.0], [0.0, 0.0]])


class ResidualBlockTest(LayerCase):
    __test__ = True
    cls = MBConvBlock
    # The block has three convolutions, two dense layers with biases, and three
    # normalizations with two trainable and two moving weights each.
    trainable_weights = 13
    non_trainable_weights = 6
    # Including the seed of drop-connect.
    non_trainable_variables = 7

    def arguments(self):
        return {
            "filters_in": 8,
            "filters_out": 8,
            "kernel_size": 5,
            "drop_connect_rate": 0.2,
            "normalization": {"momentum": 0.9},
            "rematerialize": True,
        }


class StridedBlockTest(LayerCase):
    __test__ = True
    cls = MBConvBlock
    output_shape = (2, 3, 3, 12)
    trainable_weights = 6
    non_trainable_weights = 4
    non_trainable_variables = 4

    def arguments(self):
        return {
            "filters_in": 8,
            "filters_out": 12,
            "strides": 2,
            "expand_ratio": 1,
            "squeeze_ratio": 0.0,
            "activation": "relu6",
            "padding": "hugging_face",
        }


class TemperatureTest(LayerCase):
    __test__ = True
    cls = Temperature
    input_shape = (2,)
    trainable_weights = 1
    outputs = [0.5, -2.0]

    def arguments(self):
        return {"initial_temperature": 0.5}

    def inputs(self):
        return keras.ops.array([0.25, -1.0])


class FixedTemperatureTest(LayerCase):
    __test__ = True
    cls = Temperature
    input_shape = (4,)
    non_trainable_weights = 1
    non_trainable_variables = 1

    def arguments(self):
        return {"trainable": False}


def test_each_public_layer_is_tested():
    tested = {case.cls.__name__ for case in LayerCase.__subclasses__()}
    assert tested == set(layers.__all__)

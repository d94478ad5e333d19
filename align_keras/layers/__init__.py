"""Keras layers of the encoders and of ALIGN."""

from align_keras.layers.activation import Activation
from align_keras.layers.batch_normalization import FusedBatchNormalization
from align_keras.layers.l2_normalization import L2Normalization
from align_keras.layers.mbconv_block import MBConvBlock
from align_keras.layers.temperature import Temperature

__all__ = [
    "Activation",
    "FusedBatchNormalization",
    "L2Normalization",
    "MBConvBlock",
    "Temperature",
]

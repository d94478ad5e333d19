"""The ranges of int8 activations are those of all calibration samples.

The quantizer itself is tested in test_litert.py, where it is installed.
"""

import functools

import numpy as np

from align_keras.export.litert_quantize import widest_range


def test_a_range_holds_what_every_sample_reaches():
    random = np.random.default_rng(0)
    samples = [random.normal(size=(2, 4)).astype("float32") for _ in range(5)]
    ranges = [
        {
            "min": own.min(axis=0, keepdims=True),
            "max": own.max(axis=0, keepdims=True),
        }
        for own in samples
    ]
    # The quantizer begins with an empty range.
    found = functools.reduce(widest_range, ranges, {})
    everything = np.concatenate(samples)
    np.testing.assert_array_equal(found["min"], everything.min(axis=0, keepdims=True))
    np.testing.assert_array_equal(found["max"], everything.max(axis=0, keepdims=True))
    backwards = functools.reduce(widest_range, reversed(ranges), {})
    for end in ("min", "max"):
        np.testing.assert_array_equal(found[end], backwards[end])

"""Value ranges of calibration samples. test_litert.py tests the quantizer."""

import functools

import numpy as np

from align_keras.export.litert_quantize import widest_range


def test_a_range_covers_all_samples_in_any_order():
    random = np.random.default_rng(0)
    samples = [random.normal(size=(2, 4)).astype("float32") for _ in range(5)]
    ranges = [
        {
            "min": sample.min(axis=0, keepdims=True),
            "max": sample.max(axis=0, keepdims=True),
        }
        for sample in samples
    ]
    # The quantizer starts with an empty range.
    joined = functools.reduce(widest_range, ranges, {})
    values = np.concatenate(samples)
    np.testing.assert_array_equal(joined["min"], values.min(axis=0, keepdims=True))
    np.testing.assert_array_equal(joined["max"], values.max(axis=0, keepdims=True))
    joined_in_reverse = functools.reduce(widest_range, reversed(ranges), {})
    for bound in ("min", "max"):
        np.testing.assert_array_equal(joined[bound], joined_in_reverse[bound])

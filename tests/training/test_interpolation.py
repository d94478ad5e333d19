"""WiSE-FT: weights between those of a model and its fine-tuned copy."""

import numpy as np
import pytest

from align_keras.models import ALIGN
from align_keras.training.interpolation import interpolate_weights, read_weights
from tests.helpers.small import VOCABULARY, small_encoders


@pytest.fixture(scope="module")
def align():
    encoders = small_encoders(num_stages=1)
    return ALIGN.from_encoders(*encoders, vocabulary=VOCABULARY)


def changed(weights, seed=0):
    random = np.random.default_rng(seed)
    return {
        path: value + random.normal(size=value.shape).astype(value.dtype)
        for path, value in weights.items()
    }


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_weights_equal_a_direct_average_of_both_files(align, tmp_path, factor):
    start = read_weights(align)
    end = changed(start)
    np.savez(tmp_path / "start.npz", **start)
    np.savez(tmp_path / "end.npz", **end)
    interpolate_weights(align, start, end, factor)
    with (
        np.load(tmp_path / "start.npz") as first,
        np.load(tmp_path / "end.npz") as last,
    ):
        for variable in align.weights:
            if "float" in variable.dtype:
                expected = np.average(
                    [first[variable.path], last[variable.path]],
                    axis=0,
                    weights=[1 - factor, factor],
                )
                np.testing.assert_allclose(
                    variable.numpy(), expected, rtol=1e-6, atol=1e-6
                )
    interpolate_weights(align, start, end, 0.0)
    for path, value in read_weights(align).items():
        np.testing.assert_array_equal(value, start[path])

"""WiSE-FT: weights between those of a model and its fine-tuned copy."""

import numpy as np
import pytest

from align_keras.training.interpolation import interpolate_weights, read_weights
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align


@pytest.fixture(scope="module")
def align():
    return small_align()


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


@pytest.mark.parametrize("factor", [-0.1, 1.5, float("nan")])
def test_factors_outside_the_range_are_refused(align, factor):
    start = read_weights(align)
    with pytest.raises(InputError, match="factor must be "):
        interpolate_weights(align, start, changed(start), factor)
    for path, value in read_weights(align).items():
        np.testing.assert_array_equal(value, start[path])


def test_weights_of_another_model_are_refused(align):
    start = read_weights(align)
    path = "image_encoder/projection/bias"
    with pytest.raises(InputError, match=f"must have {path} with the shape"):
        interpolate_weights(align, start, {**start, path: np.zeros(3)}, 0.5)
    with pytest.raises(InputError, match="Received: None"):
        interpolate_weights(align, start, {}, 0.5)

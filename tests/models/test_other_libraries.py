"""Tests with tensors and loaders of torch and with columns of pandas.

They run in a separate process, since torch and TensorFlow must not be imported into the
process of the tests (see `tests.helpers.oracle_process`).
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.oracle_process import needs

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [
    pytest.mark.ci,
    needs("torch", "pandas"),
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is not None,
        reason="torch installs triton, with which TensorFlow cannot be imported",
    ),
]

SETUP = """
import keras
import numpy as np
import pandas
import tensorflow as tf
import torch
from align_keras.data.fit_input import fit_input
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch

CAPTIONS = ["a b", "red", "blue", "cat"]
keras.utils.set_random_seed(0)
model = small_align(initial_temperature=0.5)
model.compile(keras.optimizers.SGD(0.01, global_clipnorm=1.0))
pixels = np.random.default_rng(0).integers(0, 256, (4, 60, 50, 3)).astype("uint8")
pairs = list(zip(pixels, CAPTIONS, strict=True))
"""

FIT = """
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(pairs)

def loader():
    return torch.utils.data.DataLoader(pairs, batch_size=2)

expected = fit_input(model, (pixels, CAPTIONS)).batches.get_single_element()
for x in (
    loader(),
    torch.utils.data.DataLoader(Stream(), batch_size=2),
    (torch.from_numpy(pixels), CAPTIONS),
    (
        pandas.Series(list(pixels), index=[7, 8, 9, 10]),
        pandas.Series(CAPTIONS, index=[3.5, 2, 1, 0]),
    ),
):
    batches = fit_input(model, x).batches
    rows = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
    for name, values in expected.items():
        actual = np.concatenate([batch[name] for batch in rows])
        # A map over images and a map over rows may round differently.
        np.testing.assert_allclose(actual, values, atol=1e-3, err_msg=name)

batch = small_batch()
tensors = {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}
inputs = fit_input(model, {**tensors, "id": np.arange(4)}).batches
assert set(inputs) == set(batch)
np.testing.assert_allclose(
    model.evaluate(inputs, verbose=0), model.evaluate(batch, verbose=0), rtol=1e-4
)

history = model.fit(loader(), epochs=2, validation_data=loader(), verbose=0).history
assert len(history["loss"]) == len(history["val_loss"]) == 2
print("ok")
"""

ENCODE = """
expected = model.encode_images(pixels)
for images in (
    pandas.Series(list(pixels), index=[5, 1, 0, 9]),
    torch.from_numpy(pixels),
    [torch.from_numpy(image) for image in pixels],
):
    np.testing.assert_array_equal(model.encode_images(images), expected)
try:
    model.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
except InputError as error:
    assert "last axis" in str(error), error
else:
    raise AssertionError("channels first were accepted")
expected = model.encode_texts(CAPTIONS)
for index in ([5, 1, 0, 9], [0.5, 1.5, 2.5, 3.5]):
    texts = pandas.Series(CAPTIONS, index=index)
    np.testing.assert_allclose(
        model.encode_texts(texts, batch_size=2), expected, atol=1e-6
    )
print("ok")
"""


@pytest.mark.parametrize("script", [FIT, ENCODE], ids=["fit", "encode"])
def test_a_model_accepts_torch_tensors_loaders_and_columns(script):
    process = subprocess.run(
        [sys.executable, "-c", SETUP + script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.stdout.endswith("ok\n"), process.stderr[-2000:]

"""Embeddings land in the file, whole or not at all."""

import numpy as np
import pytest

from align_keras.corpus.picture_embeddings import write_embeddings
from align_keras.utils.errors import InputError

PICTURES = [np.full((2, 3), number) for number in range(7)]


def moments(batch):
    return np.array([[own.mean(), own.sum(), 1.0] for own in batch])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_change_nothing(tmp_path, batch_size):
    path = tmp_path / "new" / "embeddings.npy"
    found = write_embeddings(path, iter(PICTURES), moments, 7, batch_size=batch_size)
    np.testing.assert_array_equal(found, moments(PICTURES))
    assert isinstance(found, np.memmap) and found.dtype == np.float16
    np.testing.assert_array_equal(np.load(path), found)
    assert [own.name for own in path.parent.iterdir()] == ["embeddings.npy"]


def test_no_pictures(tmp_path):
    assert write_embeddings(tmp_path / "e.npy", [], moments, 0).shape == (0, 0)


@pytest.mark.parametrize(
    ("encode", "count", "message"),
    [
        (moments, 6, "but there are more"),
        (moments, 8, "but there are 7"),
        (lambda batch: np.ones((len(batch), 2, 2)), 7, "encode must return an array"),
        (lambda batch: np.ones((1, 2)), 7, "encode must return an array"),
        (lambda batch: np.ones((len(batch), len(batch))), 7, r"\(1, 3\)"),
        (lambda batch: np.full((len(batch), 2), np.nan), 7, "finite"),
        (lambda batch: np.full((len(batch), 2), 1e9), 7, "finite.*float32"),
    ],
)
def test_a_fault_leaves_the_old_file(tmp_path, encode, count, message):
    path = tmp_path / "e.npy"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        write_embeddings(path, PICTURES, encode, count, batch_size=3)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_larger_numbers_fit_float32(tmp_path):
    found = write_embeddings(
        tmp_path / "e.npy",
        PICTURES,
        lambda batch: np.full((len(batch), 2), 1e9),
        7,
        dtype="float32",
    )
    assert (found == np.float32(1e9)).all()

"""Tests of `batch_ids`."""

import numpy as np
import pytest

from align_keras.data import batch_ids, read_retrieval_set, training_batches
from align_keras.datasets.mixture import Mixture
from align_keras.images import crop_image_bytes, preprocess_image_bytes
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import build_noise, preprocessor


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build_noise(tmp_path_factory.mktemp("data"), 20)


@pytest.fixture(scope="module")
def mixture(builder, tmp_path_factory):
    few = build_noise(tmp_path_factory.mktemp("data"), copies=2)
    return Mixture({"many": builder, "few": few})


@pytest.mark.parametrize(
    ("corpus", "cache", "part", "pair_weighted"),
    [
        pytest.param("builder", False, (1, 2), False, marks=pytest.mark.release),
        pytest.param("builder", True, (0, 1), True, marks=pytest.mark.ci),
        pytest.param("mixture", False, (0, 1), True, marks=pytest.mark.release),
        pytest.param("mixture", True, (1, 2), False, marks=pytest.mark.release),
    ],
)
def test_the_ids_belong_to_the_images_of_the_batch(
    corpus, cache, part, pair_weighted, request
):
    builder = request.getfixturevalue(corpus)
    pairs = read_retrieval_set(builder, "train")
    images = dict(zip(pairs.ids, pairs.images, strict=True))
    order = {"batch_size": 8, "seed": 3, "cache": cache, "shuffle_buffer_size": 6}
    order["pair_weighted"] = pair_weighted
    order["input_pipeline_id"], order["num_input_pipelines"] = part
    center_crop = preprocessor(crop="center", flip=False)
    batches = training_batches(builder, "train", center_crop, start_step=5, **order)
    batch = next(batches.as_numpy_iterator())
    ids = batch_ids(builder, "train", step=5, **order)
    assert len(ids) == 8 // part[1]
    for image, identifier in zip(batch["images"], ids, strict=True):
        if cache:
            expected = preprocess_image_bytes(images[identifier], 32)
        else:
            expected = crop_image_bytes(images[identifier], 32, (0.5, 0.5))
        # crop_and_resize samples whole pixels, except for float32 rounding.
        np.testing.assert_allclose(image, expected, atol=0.05)


def test_a_batch_larger_than_the_corpus_is_refused(builder):
    with pytest.raises(InputError, match="global_batch_size"):
        batch_ids(builder, "train", batch_size=25, step=0)

"""Tests of batches in which mined negatives follow their pairs."""

import collections

import numpy as np
import pytest

from align_keras.data import batch_ids
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import assert_equal, batches, build_noise

# Images 20 to 23 have no mined negatives in the corpus.
NEGATIVES = {
    f"noise/{row}": (f"noise/{(row + 1) % 24}", "absent", f"noise/{(row + 5) % 24}")
    for row in range(20)
} | {"noise/20": ("absent",)}
ORDER = {"batch_size": 24, "hard_negatives": NEGATIVES}


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build_noise(tmp_path_factory.mktemp("data"))


@pytest.mark.ci
def test_each_pair_is_followed_by_one_of_its_mined_negatives(builder):
    followers = collections.defaultdict(set)
    firsts = collections.Counter()
    for step in range(2):
        ids = batch_ids(builder, "train", step=step, **ORDER)
        assert len(ids) == 24
        firsts.update(ids[::2])
        for first, second in zip(ids[::2], ids[1::2], strict=True):
            assert first != second
            followers[first].add(second)
    # Two batches with twelve drawn pairs each are an epoch.
    assert set(firsts.values()) == {1} and len(firsts) == 24
    for first, seconds in followers.items():
        if first in NEGATIVES and first != "noise/20":
            assert seconds <= set(NEGATIVES[first])
    # Both mined negatives of an image are drawn.
    steps = {int(min(followers[id])[6:]) - int(id[6:]) for id in list(NEGATIVES)[:19]}
    assert steps == {1, 5}


@pytest.mark.ci
def test_batches_have_the_rows_of_the_ids_and_resume(builder):
    options = {**ORDER, "with_image_ids": True, "zoom": 0.0}
    uninterrupted = batches(builder, 4, **options)
    assert_equal(uninterrupted[3:], batches(builder, 1, start_step=3, **options))
    image_ids = {}
    for step, batch in enumerate(uninterrupted[:2]):
        ids = batch_ids(builder, "train", step=step, **ORDER)
        for id, image_id in zip(ids, batch["image_ids"], strict=True):
            assert image_ids.setdefault(id, image_id) == image_id
        groups = batch["negative_groups"].reshape(-1, 2)
        assert groups.dtype == np.int64 and len(set(groups[:, 0])) == 12
        has_mined = [len(NEGATIVES.get(id, ())) == 3 for id in ids[::2]]
        assert ((groups[:, 0] == groups[:, 1]) == has_mined).all()
    assert len(image_ids) == len(set(image_ids.values()))


@pytest.mark.release
def test_pipelines_divide_the_rows_of_a_batch(builder):
    options = {**ORDER, "zoom": 0.0}
    parts = [
        batches(builder, 2, input_pipeline_id=part, num_input_pipelines=2, **options)
        for part in range(2)
    ]
    whole_batches = batches(builder, 2, **options)
    for whole, first, second in zip(whole_batches, *parts, strict=True):
        for name, values in whole.items():
            joined = np.concatenate([first[name], second[name]])
            np.testing.assert_array_equal(joined, values)


@pytest.mark.parametrize(
    "change, rule",
    [
        ({"batch_size": 7}, "an even number of rows"),
        ({"hard_negatives": {"a": ("b",)}}, "must contain the ids of the training"),
    ],
)
def test_wrong_options_are_refused(builder, change, rule):
    with pytest.raises(InputError, match=rule):
        batch_ids(builder, "train", step=0, **{**ORDER, **change})

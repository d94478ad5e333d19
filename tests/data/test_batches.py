"""Tests of the training batches of an experiment."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from align_keras.data import read_retrieval_set
from align_keras.data.stored_pairs import read_captions, split_size
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import KINDS, assert_equal, batches, build_noise, kinds
from tests.helpers.small import VOCABULARY


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build_noise(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Returns a corpus of 48 pairs in 40 files, three windows per epoch."""
    return build_noise(tmp_path_factory.mktemp("data"), 40, copies=2)


@pytest.fixture(scope="module")
def mixture(builder, tmp_path_factory):
    """Returns a mixture of 96 pairs. 72 of them have captions that start with z."""
    folder = tmp_path_factory.mktemp("data")
    many = build_noise(folder, 20, copies=3, first_word="z ")
    return Mixture({"few": builder, "many": many})


# Combinations that aren't listed here belong to the release tier.
CI = (("builder", "cached"), ("sharded", "cropped"))


@pytest.mark.parametrize(
    "corpus, kind",
    [
        pytest.param(
            corpus,
            kind,
            marks=pytest.mark.ci if (corpus, kind) in CI else pytest.mark.release,
        )
        for corpus in ("builder", "sharded", "mixture")
        for kind in KINDS
    ],
)
def test_batches_do_not_depend_on_the_start_step(corpus, kind, request):
    builder = request.getfixturevalue(corpus)
    arguments = {**KINDS[kind], "shuffle_buffer_size": 16}
    uninterrupted = batches(builder, 9, **arguments)
    # Epochs have 3, 6 or 12 batches. The windows of 48 pairs in 40 files end after
    # about 19 and 38 pairs.
    later = batches(builder, 2, start_step=7, **arguments)
    assert_equal(uninterrupted[7:], later)


@pytest.mark.ci
def test_crops_differ_between_epochs(builder):
    first_batches = batches(builder, 15, zoom=0.0)
    images = np.concatenate([batch["images"] for batch in first_batches])
    assert images.dtype == np.uint8
    # Each of the 24 images has 7 × 9 crop positions, mirrored or not, and is drawn five
    # times.
    assert len(np.unique(images, axis=0)) > 100


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("cropped", marks=pytest.mark.ci),
        pytest.param("cached", marks=pytest.mark.ci),
        pytest.param("augmented", marks=pytest.mark.release),
    ],
)
def test_half_of_the_images_are_mirrored(builder, kind):
    arguments = {"crop": "center", "zoom": 0.0}
    # A tiny shift makes training augment batches instead of single images, but doesn't
    # change the pixels.
    options = {"cropped": {}, "augmented": {"shift": 1e-9}, "cached": {"cache": True}}
    arguments |= options[kind]
    images = {
        flip: np.concatenate(
            [
                np.round(batch["images"])
                for batch in batches(builder, 6, flip=flip, **arguments)
            ]
        )
        for flip in (False, True)
    }
    # The order doesn't depend on `flip`, so rows with the same number are compared.
    unchanged = (images[True] == images[False]).all(axis=(1, 2, 3))
    mirrored = (images[True] == images[False][:, :, ::-1]).all(axis=(1, 2, 3))
    assert (unchanged ^ mirrored).all()
    # For 48 images, the count is outside of this range with a probability of 1e-3.
    assert 12 <= mirrored.sum() <= 36


def batches_of_pipelines(builder, count, pipelines, **arguments):
    """Returns the batches of each input pipeline, and the batches of all rows."""
    parts = [
        batches(
            builder,
            count,
            input_pipeline_id=number,
            num_input_pipelines=pipelines,
            **arguments,
        )
        for number in range(pipelines)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    return parts, joined


@pytest.mark.parametrize(
    ("kind", "pipelines"),
    [
        pytest.param("cropped", 2, marks=pytest.mark.release),
        pytest.param("augmented", 4, marks=pytest.mark.release),
        pytest.param("cached", 2, marks=pytest.mark.release),
        pytest.param("pair_weighted", 2, marks=pytest.mark.ci),
    ],
)
def test_pipelines_with_few_files_divide_the_rows_of_a_batch(builder, kind, pipelines):
    pair_weighted = {"zoom": 0.0, "pair_weighted": True}
    arguments = {**KINDS.get(kind, pair_weighted), "start_step": 2}
    parts, joined = batches_of_pipelines(builder, 3, pipelines, **arguments)
    assert parts[0][0]["images"].shape[0] == 8 // pipelines
    assert_equal(batches(builder, 3, **arguments), joined)


@pytest.mark.release
def test_pipelines_with_separate_files_resume_at_any_step(sharded):
    parts, _ = batches_of_pipelines(sharded, 9, 2, zoom=0.0)
    resumed, _ = batches_of_pipelines(sharded, 2, 2, start_step=7, zoom=0.0)
    for expected, actual in zip(parts, resumed, strict=True):
        assert_equal(expected[7:], actual)
    assert (parts[0][0]["images"] != parts[1][0]["images"]).any()


@pytest.mark.release
def test_a_data_service_returns_all_pairs(sharded):
    script = pathlib.Path(__file__).with_name("service_script.py")
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as servers:
        try:
            target = servers.stdout.readline().strip()
            first_batches = batches(sharded, 12, data_service=target, zoom=0.0)
        finally:
            servers.kill()
    assert len(first_batches) == 12
    assert first_batches[0]["images"].shape == (8, 32, 32, 3)
    # The windows are divided among the workers, so the batches come from both.
    letters = np.concatenate([batch["token_ids"][:, 1] for batch in first_batches])
    assert len(set(letters)) == 24


@kinds
def test_epochs_contain_all_pairs_once_in_different_orders(builder, kind):
    options = KINDS[kind]
    if kind == "cached":
        # The order does not depend on the augmentation, which takes long to trace.
        options = {"cache": True, "zoom": 0.0}
    first_batches = batches(builder, 6, **options)
    rows = [batch["token_ids"][:, 1] for batch in first_batches]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert len(set(first)) == len(set(second)) == 24
    assert (first != second).any()


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["cropped", "cached"])
def test_pair_weighted_epochs_contain_all_captions_once(builder, kind):
    first_batches = batches(builder, 12, pair_weighted=True, **KINDS[kind])
    rows = np.concatenate([b["token_ids"][:, 1:3] for b in first_batches]).tolist()
    first, second = rows[:48], rows[48:]
    assert len({tuple(row) for row in first}) == 48
    assert sorted(first) == sorted(second) and first != second
    resumed = batches(builder, 5, pair_weighted=True, start_step=7, **KINDS[kind])
    assert_equal(first_batches[7:], resumed)


@pytest.mark.ci
def test_equal_images_have_equal_ids(builder):
    options = {"pair_weighted": True, "with_image_ids": True, "cache": True}
    rows = batches(builder, 6, **options)
    ids = np.concatenate([batch["image_ids"] for batch in rows])
    letters = np.concatenate([batch["token_ids"][:, 1] for batch in rows])
    # The epoch has two captions of each of 24 images.
    assert ids.dtype == np.int64 and len(set(ids)) == 24
    assert len(set(zip(ids, letters, strict=True))) == 24


@pytest.mark.ci
def test_all_captions_of_an_image_are_drawn(builder):
    endings = np.concatenate([b["token_ids"][:, 2] for b in batches(builder, 30)])
    assert {VOCABULARY.index(letter) for letter in "xyz"} <= set(endings)


@pytest.mark.ci
def test_batches_have_the_expected_shapes_and_dtypes(builder):
    batch = batches(builder, 1)[0]
    assert batch["images"].shape == (8, 32, 32, 3)
    assert batch["images"].dtype == np.float32
    assert batch["token_ids"].shape == batch["padding_mask"].shape == (8, 6)
    assert 0 <= batch["images"].min() < batch["images"].max() <= 255


def test_a_batch_larger_than_the_corpus_is_refused(builder):
    with pytest.raises(InputError, match="global_batch_size"):
        batches(builder, 1, batch_size=25)


def test_a_split_must_exist_and_not_exceed_the_corpus(builder):
    with pytest.raises(InputError, match="24 images"):
        split_size(builder, "train[:25]")
    with pytest.raises(InputError, match="tfds_split"):
        split_size(builder, "val")


def test_a_retrieval_set_contains_all_captions_in_order(builder):
    pairs = read_retrieval_set(builder, "train[:5]")
    assert len(pairs) == 5
    for captions in pairs.captions:
        (letter,) = {caption[0] for caption in captions}
        count = "abcdefghijklmnopqrstuvwx".index(letter) % 3 + 1
        assert captions == [f"{letter} {end}" for end in "xyz"[:count]]
    all_captions = [caption for captions in pairs.captions for caption in captions]
    assert all_captions == read_captions(builder, "train")[: len(all_captions)]
    assert len(read_captions(builder, "train")) == sum(n % 3 + 1 for n in range(24))


@pytest.mark.ci
def test_epochs_of_a_mixture_contain_all_pairs_once_in_different_orders(mixture):
    letters = [batch["token_ids"][:, 1:3] for batch in batches(mixture, 24)]
    epochs = [np.concatenate(letters[:12]), np.concatenate(letters[12:])]
    z = VOCABULARY.index("z")
    for epoch in epochs:
        few, many = epoch[epoch[:, 0] != z, 0], epoch[epoch[:, 0] == z, 1]
        assert sorted(few) == sorted(set(few)) and len(few) == 24
        assert sorted(many) == sorted([*few] * 3)
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.ci
def test_a_small_shuffle_buffer_draws_from_all_members(mixture):
    # The first n pairs of the result are among the first n + 8 pairs before shuffling.
    # If the members were concatenated, all of them would come from the same member for
    # a third of an epoch.
    first_batches = batches(mixture, 12, shuffle_buffer_size=8)
    letters = np.concatenate([batch["token_ids"][:, 1] for batch in first_batches])
    many = letters == VOCABULARY.index("z")
    num_candidates = np.arange(1, 97) + 8
    assert (np.cumsum(many) <= num_candidates * 3 / 4 + 1).all()
    assert (np.cumsum(~many) <= num_candidates / 4 + 1).all()


def test_mixtures_are_read_into_memory(mixture):
    pairs = read_retrieval_set(mixture, "train[:50%]")
    assert len(pairs) == 48 and len(set(pairs.ids)) == 48
    assert len(read_captions(mixture, "train")) == 4 * 24 * 2

"""The training pipeline is a function of its arguments and of the step."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

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
    """48 pairs in 40 files: three windows of at most 16 files an epoch."""
    return build_noise(tmp_path_factory.mktemp("data"), 40, copies=2)


@pytest.fixture(scope="module")
def mixture(builder, tmp_path_factory):
    """96 pairs, three of four from a corpus whose captions begin with z."""
    folder = tmp_path_factory.mktemp("data")
    many = build_noise(folder, 20, copies=3, first_word="z ")
    return Mixture({"few": builder, "many": many})


# Other kinds of other corpora are left to the release tier.
TIERS = {("builder", "cropped"): [], ("sharded", "cropped"): pytest.mark.ci}


@pytest.mark.parametrize(
    "corpus, kind",
    [
        pytest.param(
            corpus,
            kind,
            marks=TIERS.get((corpus, kind), pytest.mark.release),
        )
        for corpus in ("builder", "sharded", "mixture")
        for kind in KINDS
    ],
)
def test_any_start_gives_the_same_batches(corpus, kind, request):
    builder = request.getfixturevalue(corpus)
    arguments = {**KINDS[kind], "shuffle_buffer_size": 16}
    whole = batches(builder, 16, **arguments)
    # Epochs end after 3, 6 or 12 batches; of 48 pairs in 40 files, windows end
    # after about 19 and 38 pairs.
    for start in (6, 13):
        tf.random.set_seed(start)  # Which batches mustn't depend on.
        later = batches(builder, 3, start_step=start, **arguments)
        assert_equal(whole[start : start + 3], later)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("cropped", marks=pytest.mark.ci),
        pytest.param("cached", marks=pytest.mark.release),
    ],
)
def test_seeds_differ(builder, kind):
    first, second = (batches(builder, 1, seed=n, **KINDS[kind])[0] for n in (0, 1))
    assert (first["images"] != second["images"]).any()


@pytest.mark.ci
def test_crops_vary_between_epochs(builder):
    drawn = batches(builder, 30, zoom=0.0)
    images = np.concatenate([batch["images"] for batch in drawn])
    assert images.dtype == np.uint8
    # 24 pictures × (7 × 9 places, mirrored or not), drawn ten times each.
    assert len(np.unique(images, axis=0)) > 200


@pytest.mark.ci
def test_without_crop_and_flip_a_picture_stays_the_same(builder):
    drawn = batches(builder, 6, zoom=0.0, crop="center", flip=False)
    images = np.concatenate([batch["images"] for batch in drawn])
    assert len(np.unique(images, axis=0)) == 24


@pytest.mark.parametrize(
    "kind",
    [
        "cropped",
        *(pytest.param(kind, marks=pytest.mark.ci) for kind in ("varied", "cached")),
    ],
)
def test_half_of_the_pictures_are_mirrored(builder, kind):
    arguments = {"crop": "center", "zoom": 0.0}
    # A shift that moves nothing, so that whole pictures are varied.
    arguments |= {"cropped": {}, "varied": {"shift": 1e-9}, "cached": {"cache": True}}[
        kind
    ]
    drawn = {
        flip: np.concatenate(
            [
                np.round(batch["images"])
                for batch in batches(builder, 6, flip=flip, **arguments)
            ]
        )
        for flip in (False, True)
    }
    # The order doesn't depend on `flip`, so each picture stands beside its mirror.
    same = (drawn[True] == drawn[False]).all(axis=(1, 2, 3))
    mirrored = (drawn[True] == drawn[False][:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    # Of 48 fair draws, outside of 12 to 36 with a probability of 1e-3.
    assert 12 <= mirrored.sum() <= 36


def rows_of_all(builder, count, pipelines, **arguments):
    """The batches of each input pipeline, and all rows joined."""
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
        pytest.param("varied", 4, marks=pytest.mark.release),
        pytest.param("cached", 2, marks=pytest.mark.release),
        pytest.param("pair_weighted", 2, marks=pytest.mark.ci),
    ],
)
def test_pipelines_of_few_files_share_the_batch(builder, kind, pipelines):
    own = {"zoom": 0.0, "pair_weighted": True}
    arguments = {**KINDS.get(kind, own), "start_step": 2}
    parts, joined = rows_of_all(builder, 3, pipelines, **arguments)
    assert parts[0][0]["images"].shape[0] == 8 // pipelines
    assert_equal(batches(builder, 3, **arguments), joined)


@pytest.mark.release
def test_pipelines_with_files_of_their_own(sharded):
    parts, _ = rows_of_all(sharded, 9, 2, zoom=0.0)
    later, _ = rows_of_all(sharded, 2, 2, start_step=7, zoom=0.0)
    for part, rest in zip(parts, later, strict=True):
        assert_equal(part[7:], rest)
    assert (parts[0][0]["images"] != parts[1][0]["images"]).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_input_pipelines": 3}, "divide global_batch_size .* Received: 3"),
        ({"num_input_pipelines": 0}, "Received: 0"),
        ({"input_pipeline_id": 1}, r"from 0 to 0. Received: input_pipeline_id=1"),
        ({"cache": True, "data_service": "grpc://x:1"}, "cache must be false"),
        ({"input_pipeline_id": -1}, "Received: input_pipeline_id=-1"),
    ],
)
def test_mistakes_are_told_in_one_line(builder, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        batches(builder, 1, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.release
def test_data_service(sharded):
    script = pathlib.Path(__file__).with_name("service_script.py")
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as servers:
        try:
            target = servers.stdout.readline().strip()
            drawn = batches(sharded, 12, data_service=target, zoom=0.0)
        finally:
            servers.kill()
    assert len(drawn) == 12
    assert drawn[0]["images"].shape == (8, 32, 32, 3)
    # The workers share the windows, so both bring pairs of an epoch.
    letters = np.concatenate([batch["token_ids"][:, 1] for batch in drawn])
    assert len(set(letters)) == 24


@kinds
def test_epochs_hold_every_pair_once_and_vary(builder, kind):
    drawn = batches(builder, 6, **KINDS[kind])
    rows = [batch["token_ids"][:, 1] for batch in drawn]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert len(set(first)) == len(set(second)) == 24
    assert (first != second).any()


@pytest.mark.ci
@kinds
def test_pair_weighted_epochs_hold_every_caption_once(builder, kind):
    drawn = batches(builder, 12, pair_weighted=True, **KINDS[kind])
    rows = np.concatenate([batch["token_ids"][:, 1:3] for batch in drawn]).tolist()
    first, second = rows[:48], rows[48:]
    assert len({tuple(row) for row in first}) == 48
    assert sorted(first) == sorted(second) and first != second
    later = batches(builder, 5, pair_weighted=True, start_step=7, **KINDS[kind])
    assert_equal(drawn[7:], later)


@pytest.mark.ci
def test_all_captions_are_drawn(builder):
    drawn = np.concatenate([b["token_ids"][:, 2] for b in batches(builder, 30)])
    assert {VOCABULARY.index(letter) for letter in "xyz"} <= set(drawn)


def test_shapes_are_static(builder):
    batch = batches(builder, 1)[0]
    assert batch["images"].shape == (8, 32, 32, 3)
    assert batch["images"].dtype == np.float32
    assert batch["token_ids"].shape == batch["padding_mask"].shape == (8, 6)
    assert 0 <= batch["images"].min() < batch["images"].max() <= 255


def test_batch_larger_than_the_corpus(builder):
    with pytest.raises(InputError, match="at most the 24 pairs.*Received: 25"):
        batches(builder, 1, batch_size=25)


def test_a_part_larger_than_the_corpus(builder):
    with pytest.raises(InputError, match="part of the 24 images.*'train\\[:25\\]'"):
        split_size(builder, "train[:25]")
    with pytest.raises(InputError, match="has no split 'val', only train"):
        split_size(builder, "val")


def test_retrieval_set_holds_all_captions_in_order(builder):
    pairs = read_retrieval_set(builder, "train[:5]")
    assert len(pairs) == 5
    for own in pairs.captions:
        (letter,) = {caption[0] for caption in own}
        count = "abcdefghijklmnopqrstuvwx".index(letter) % 3 + 1
        assert own == [f"{letter} {end}" for end in "xyz"[:count]]
    every = [caption for own in pairs.captions for caption in own]
    assert every == read_captions(builder, "train")[: len(every)]
    assert len(read_captions(builder, "train")) == sum(n % 3 + 1 for n in range(24))


@pytest.mark.ci
def test_epochs_of_a_mixture_hold_every_pair_once_and_vary(mixture):
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
    # What is drawn stands among the first `drawn + 8` pairs. Were the members
    # concatenated, these would be of one only for a third of an epoch.
    drawn = batches(mixture, 12, shuffle_buffer_size=8)
    letters = np.concatenate([batch["token_ids"][:, 1] for batch in drawn])
    many = letters == VOCABULARY.index("z")
    reach = np.arange(1, 97) + 8
    assert (np.cumsum(many) <= reach * 3 / 4 + 1).all()
    assert (np.cumsum(~many) <= reach / 4 + 1).all()


def test_read_functions_take_a_mixture(mixture):
    pairs = read_retrieval_set(mixture, "train[:50%]")
    assert len(pairs) == 48 and len(set(pairs.ids)) == 48
    assert len(read_captions(mixture, "train")) == 4 * 24 * 2

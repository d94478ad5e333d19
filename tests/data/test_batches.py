"""The training pipeline is a function of its arguments and of the step."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_keras.data import read_retrieval_set, training_batches
from align_keras.data.retrieval_set import read_captions
from align_keras.datasets.mixture import Mixture
from align_keras.text import WordPieceTokenizer
from align_keras.utils.errors import InputError
from tests.small import VOCABULARY


class Noise(tfds.core.GeneratorBasedBuilder):
    """24 pictures a copy, of noise, with one to three captions."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, copies=1, first_word="", **kwargs):
        self.copies, self.first_word = copies, first_word
        super().__init__(**kwargs)

    def _info(self):
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
            "category": text,
            "image_key": text,
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        random = np.random.default_rng(0)
        for number in range(24 * self.copies):
            row = number % 24
            name = f"{self.first_word}{chr(97 + row)}"
            yield (
                number,
                {
                    "id": f"noise/{number}",
                    "image": random.integers(0, 256, (30, 40, 3)).astype("uint8"),
                    "captions": [f"{name} {n}" for n in "xyz"[: row % 3 + 1]],
                    "category": "noise",
                    "image_key": str(number),
                },
            )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = Noise(data_dir=str(tmp_path_factory.mktemp("data")))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def mixture(builder, tmp_path_factory):
    """96 pairs, three of four from a corpus whose captions begin with z."""
    folder = tmp_path_factory.mktemp("data")
    many = Noise(copies=3, first_word="z ", data_dir=str(folder))
    many.download_and_prepare()
    return Mixture({"few": builder, "many": many})


def batches(builder, count, **arguments):
    arguments = {"image_size": 32, "batch_size": 8, "zoom": 0.1, **arguments}
    tokenizer = WordPieceTokenizer(VOCABULARY, sequence_length=6)
    dataset = training_batches(builder, "train", tokenizer, **arguments)
    return list(dataset.take(count).as_numpy_iterator())


@pytest.mark.parametrize("cache", [False, True])
def test_any_start_gives_the_same_batches(builder, cache):
    whole = batches(builder, 8, cache=cache, recolor=1.0)
    later = batches(builder, 3, cache=cache, recolor=1.0, start_step=5)
    for expected, actual in zip(whole[5:], later, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values)


def test_epochs_hold_every_pair_once_and_vary(builder):
    rows = [batch["token_ids"][:, 1] for batch in batches(builder, 6)]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert len(set(first)) == len(set(second)) == 24
    assert (first != second).any()


def test_all_captions_are_drawn(builder):
    drawn = np.concatenate([b["token_ids"][:, 2] for b in batches(builder, 30)])
    assert {VOCABULARY.index(letter) for letter in "xyz"} <= set(drawn)


def test_shapes_are_static(builder):
    batch = batches(builder, 1)[0]
    assert batch["images"].shape == (8, 32, 32, 3)
    assert batch["token_ids"].shape == batch["padding_mask"].shape == (8, 6)
    assert 0 <= batch["images"].min() < batch["images"].max() <= 255


def test_batch_larger_than_the_corpus(builder):
    with pytest.raises(InputError, match="at most the 24 pairs.*received 25"):
        batches(builder, 1, batch_size=25)


def test_retrieval_set_holds_first_captions_in_order(builder):
    pairs = read_retrieval_set(builder, "train[:5]")
    assert len(pairs) == 5
    assert all(caption.endswith(" x") for caption in pairs.captions)
    assert len(read_captions(builder, "train")) == sum(n % 3 + 1 for n in range(24))


@pytest.mark.parametrize("cache", [False, True])
def test_any_start_gives_the_same_batches_of_a_mixture(mixture, cache):
    whole = batches(mixture, 15, cache=cache, shuffle_buffer_size=16)
    later = batches(mixture, 4, cache=cache, shuffle_buffer_size=16, start_step=11)
    for expected, actual in zip(whole[11:], later, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values)


def test_epochs_of_a_mixture_hold_every_pair_once_and_vary(mixture):
    letters = [batch["token_ids"][:, 1:3] for batch in batches(mixture, 24)]
    epochs = [np.concatenate(letters[:12]), np.concatenate(letters[12:])]
    z = VOCABULARY.index("z")
    for epoch in epochs:
        few, many = epoch[epoch[:, 0] != z, 0], epoch[epoch[:, 0] == z, 1]
        assert sorted(few) == sorted(set(few)) and len(few) == 24
        assert sorted(many) == sorted([*few] * 3)
    assert (epochs[0] != epochs[1]).any()


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

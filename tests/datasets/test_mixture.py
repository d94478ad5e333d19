"""Tests of mixtures: all examples occur, evenly interleaved, and errors are short."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.data import read_retrieval_set
from align_keras.data.stored_pairs import check_batch_size, read_captions
from align_keras.datasets import open_corpus
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.pair_builder import PairBuilder, RawPair
from align_keras.utils.errors import InputError
from tests.helpers.translated_stamps import write_translated_stamps


class Toy(PairBuilder, skip_registration=True):
    """Corpus with a number of images in each split, and one dropped image."""

    VERSION = tfds.core.Version("1.0.0")
    LAYOUT = ImageLayout(size=16)

    def __init__(self, sizes, **kwargs):
        self.sizes = sizes
        super().__init__(max_bad_fraction=0.5, **kwargs)

    def _raw_pairs(self, counter):
        counter.drop("truncated", "last.png", "cut short")
        file = io.BytesIO()
        Image.new("RGB", (4, 4), "teal").save(file, "PNG")
        return [
            RawPair(f"{split}/{n}", file.getvalue(), (f"{split} {n}",), "", split, "")
            for split, size in self.sizes.items()
            for n in range(size)
        ]

    def _notes(self):
        return {"sizes": sum(self.sizes.values())}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    def toy(**sizes):
        builder = Toy(sizes, data_dir=tmp_path_factory.mktemp("toy"))
        builder.download_and_prepare()
        return builder

    return {
        "big": toy(train=60, test=5),
        "small": toy(train=13, test=4),
        "tests": toy(test=11),
    }


def mixture_of(toys, *names):
    return Mixture({name: toys[name] for name in names})


def test_every_example_occurs_once_in_every_split(toys):
    mixture = mixture_of(toys, "big", "small")
    assert mixture.name == "big+small"
    assert sorted(mixture.info.splits) == ["test", "train"]
    sizes = {"train": 73, "test": 9, "all": 82, "train[:50%]": 36}
    for split, size in sizes.items():
        assert mixture.info.splits[split].num_examples == size
    pairs = read_retrieval_set(mixture, "all")
    assert len(pairs) == 82
    assert dict(zip(pairs.ids, pairs.captions, strict=True)) == {
        f"{name}/{split}/{number}": [f"{split} {number}"]
        for name in ("big", "small")
        for split, size in toys[name].sizes.items()
        for number in range(size)
    }


def test_examples_have_the_features_of_a_corpus(toys):
    example = next(iter(mixture_of(toys, "tests", "big").as_dataset(split="test")))
    assert set(example) == {"id", "image", "captions", "category", "image_key"}
    assert example["image"].shape == (4, 4, 3)
    assert example["image"].dtype == np.uint8


def test_members_keep_their_order(toys):
    mixture = mixture_of(toys, "big", "small")
    ids = read_retrieval_set(mixture, "test").ids
    ids_of_member = [name for name in ids if name.startswith("small/")]
    expected = read_retrieval_set(toys["small"], "test").ids
    assert ids_of_member == [f"small/{name}" for name in expected]


def turns_of(sizes):
    """Returns the number of the member at each turn of the first cycle."""
    turns, _ = Mixture.endless_turns(sizes, 0)
    return [int(member) for member in turns.take(sum(sizes)).as_numpy_iterator()]


@pytest.mark.parametrize("sizes", [(60, 13), (7, 7, 7), (0, 4, 2)])
def test_each_member_has_its_share_of_any_number_of_turns(sizes):
    turns = np.array(turns_of(sizes))
    assert np.bincount(turns, minlength=len(sizes)).tolist() == list(sizes)
    taken = np.cumsum(turns[:, None] == np.arange(len(sizes)), axis=0)
    shares = np.arange(1, len(turns) + 1)[:, None] * np.array(sizes) / sum(sizes)
    assert np.abs(taken - shares).max() < 1
    assert turns.tolist() == turns_of(sizes)


def test_an_epoch_repeats_the_examples_of_a_member(toys):
    members = {"big": toys["big"], "small": toys["small"]}
    mixture = Mixture(members, repeats={"small": 2.0})
    assert mixture.shares({"big": 60, "small": 13}) == [60, 26]
    # Evaluation reads each example once.
    assert mixture.info.splits["train"].num_examples == 73
    # A large mixture keeps the ratio.
    large = mixture.shares({"big": 6_000_000, "small": 1_000_000})
    assert large == [75_000, 25_000]


def test_a_split_that_a_member_does_not_have_raises(toys):
    mixture = mixture_of(toys, "big", "tests")
    assert list(mixture.info.splits) == ["test"]
    with pytest.raises(InputError, match="tfds_split"):
        read_captions(mixture, "train[:5%]")


def test_a_batch_larger_than_all_members_raises(toys):
    check_batch_size(73, mixture_of(toys, "big", "small"), "train")
    with pytest.raises(InputError, match="73 pairs"):
        check_batch_size(74, mixture_of(toys, "big", "small"), "train")


def test_the_metadata_of_a_mixture_are_those_of_its_members(toys):
    metadata = mixture_of(toys, "big", "tests").info.metadata
    assert {name: notes["kept"] for name, notes in metadata.items()} == {
        "big": 65,
        "tests": 11,
    }
    assert metadata["big"]["dropped"] == {"truncated": 1}
    assert metadata["big"]["examples"] == {"truncated": "last.png: cut short"}
    assert metadata["tests"]["notes"]["sizes"] == 11
    assert metadata["tests"]["summary"][0] == "11 pairs kept"


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    write_translated_stamps(tmp_path / "stamps")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(tmp_path / "stamps"))
    return tmp_path / "stamps"


def test_a_mixture_is_built_by_name(stamps, tmp_path):
    data_dir = tmp_path / "data"
    open_corpus("stamps/fr", data_dir=data_dir)
    calls = []
    mixture = open_corpus(
        "stamps/fr+stamps/de+stamps",
        data_dir=data_dir,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert mixture.name == "stamps/fr+stamps/de+stamps"
    pairs = read_retrieval_set(mixture, "test")
    captions = dict(zip(pairs.ids, pairs.captions, strict=True))
    assert len(captions) == 8
    assert captions["stamps/de/animals/cat"] == ["Ein cat."]
    assert captions["stamps/animals/eel"] == ["A eel."]
    # Prepared members are not built again. The count continues over all builds, and the
    # total grows when a build begins.
    assert calls == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]

"""The order of the records, what a start reads, and what is parsed.

That of the batches is held by test_batches.py.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from align_keras.data import shards
from align_keras.data.order import ordered_pairs, shuffled_records
from align_keras.data.shards import Shards, enough_shards
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import build_noise

# 48 pairs in 40 files, 7 files a window: six windows an epoch.
PAIRS, FILES, WINDOW = 48, 40, 7


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build_noise(tmp_path_factory.mktemp("data"), FILES, copies=2)


@pytest.fixture(scope="module")
def mixture(builder, tmp_path_factory):
    small = build_noise(tmp_path_factory.mktemp("data"), 5)
    return Mixture({"large": builder, "small": small})


def order(builder, count, split="train", seed=0, start=0, **arguments):
    arguments = {"shuffle_buffer_size": 5, "cycle_length": WINDOW, **arguments}
    records = shuffled_records(builder, split, seed=seed, start=start, **arguments)
    features = builder.info.features
    decoders = {"image": tfds.decode.SkipDecoding()}
    return [
        (prefix + features.deserialize_example(record, decoders=decoders)["id"])
        .numpy()
        .decode()
        for prefix, record in records.take(count)
    ]


def test_the_corpus_has_many_files(builder):
    assert builder.info.splits["train"].num_shards == FILES
    assert builder.info.splits["train"].num_examples == PAIRS


@pytest.mark.parametrize("split", ["train", "train[10%:60%]"])
def test_each_epoch_holds_every_record_once_in_another_order(builder, split):
    size = builder.info.splits[split].num_examples
    ids = order(builder, 3 * size, split)
    epochs = [ids[n * size : (n + 1) * size] for n in range(3)]
    assert len(set(epochs[0])) == size
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_each_epoch_takes_the_files_in_another_order(builder):
    # Nothing is drawn from a buffer of one, and no files are mixed.
    ids = order(builder, 2 * PAIRS, shuffle_buffer_size=1, cycle_length=1)
    assert sorted(ids[:PAIRS]) == sorted(ids[PAIRS:])
    assert ids[:PAIRS] != ids[PAIRS:]


def test_files_and_their_records_are_shuffled_by_the_seed_alone(builder):
    first, second = order(builder, PAIRS), order(builder, PAIRS, seed=1)
    assert first != second
    # Whole windows differ, not only their inner order.
    assert set(first[:8]) != set(second[:8])
    tf.random.set_seed(7)
    assert order(builder, PAIRS) == first


def test_any_start_goes_on_in_the_same_order(builder):
    whole = order(builder, 3 * PAIRS + 4)
    for start in [7, 9, 25, PAIRS - 1, PAIRS, PAIRS + 1, 3 * PAIRS]:
        assert order(builder, 4, start=start) == whole[start : start + 4]


@pytest.mark.ci
def test_any_start_of_a_mixture_goes_on_in_the_same_order(mixture):
    whole = order(mixture, 3 * 72 + 4)
    assert all(len(set(whole[n * 72 : (n + 1) * 72])) == 72 for n in range(3))
    for start in [5, 31, 71, 72, 73, 3 * 72]:
        assert order(mixture, 4, start=start) == whole[start : start + 4]
    # Any stretch has its share of each member, two of three here.
    large = np.cumsum([identifier.startswith("large/") for identifier in whole])
    assert np.abs(large - np.arange(1, len(whole) + 1) * 2 / 3).max() < 1


@pytest.mark.ci
def test_a_start_reads_only_its_own_window(tmp_path):
    # 12 files, 5 a window: the last of an epoch has two.
    builder = build_noise(tmp_path, 12)
    start = {"start": 24 - 3, "cycle_length": 5}
    expected, needed = order(builder, 3, **start), 0
    files = sorted(builder.data_path.glob("*.tfrecord*"))
    assert len(files) == 12
    for file in files:
        content = file.read_bytes()
        file.write_bytes(b"junk" * 99)  # Stays junk unless it's needed.
        try:
            assert order(builder, 3, **start) == expected
        except tf.errors.DataLossError:
            needed += 1
            file.write_bytes(content)
    assert needed == 2


@pytest.mark.ci
def test_parts_are_equal_and_disjoint(builder):
    for split in ("train", "train[10%:60%]"):
        size = builder.info.splits[split].num_examples
        parts = []
        for number in range(5):
            own = Shards(builder, split, number, 5).takes.sum()
            assert own in (size // 5, -(-size // 5))
            part = {"input_pipeline_id": number, "num_input_pipelines": 5}
            parts.append(order(builder, own, split, **part))
        assert sorted(sum(parts, [])) == sorted(order(builder, size, split))


def test_enough_files_in_every_member(builder, mixture):
    assert enough_shards(builder, "train", FILES)
    assert not enough_shards(builder, "train", FILES + 1)
    assert enough_shards(mixture, "train", 5)
    assert not enough_shards(mixture, "train", 6)


def test_other_file_formats_are_refused(builder, monkeypatch):
    monkeypatch.setattr(type(builder.info), "file_format", tfds.core.FileFormat.RIEGELI)
    with pytest.raises(InputError, match="tfrecord or array_record. Received: riegeli"):
        order(builder, 1)


def pair_order(builder, count, split="train", start=0, **arguments):
    """The (id, caption) of each entry of the pair-weighted order."""
    arguments = {"shuffle_buffer_size": 5, "cycle_length": WINDOW, **arguments}
    records = shuffled_records(
        builder, split, seed=0, start=start, pair_weighted=True, **arguments
    )
    features = tfds.features.FeaturesDict(
        {name: builder.info.features[name] for name in ("id", "captions")}
    )

    def entry(prefix, record, caption):
        example = features.deserialize_example(record)
        return prefix + example["id"], example["captions"][caption]

    found = records.take(count).map(entry).as_numpy_iterator()
    return [(name.decode(), caption.decode()) for name, caption in found]


# 48 images of 1, 2 and 3 captions: 96 pairs in two passes.
@pytest.mark.ci
def test_each_epoch_holds_every_caption_once_in_another_order(builder):
    drawn = pair_order(builder, 2 * 2 * PAIRS)
    epochs = drawn[: 2 * PAIRS], drawn[2 * PAIRS :]
    assert len(set(epochs[0])) == 2 * PAIRS
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    part = pair_order(builder, 200, "train[10%:60%]")
    size = len(set(part))
    images = builder.info.splits["train[10%:60%]"].num_examples
    assert len({name for name, _ in part}) == images < size < 3 * images
    assert len(set(part[:size])) == size and sorted(part[:size]) == sorted(set(part))


@pytest.mark.ci
def test_captions_of_an_image_lie_apart(builder):
    """In a pass an image has at most half of its captions, rounded up."""
    drawn = [name for name, _ in pair_order(builder, 2 * PAIRS)]
    sizes = Shards(builder, "train", pair_weighted=True).sizes.sum(axis=1)
    assert len(sizes) == 2 and sizes.sum() == 2 * PAIRS
    passes = drawn[: sizes[0]], drawn[sizes[0] :]
    for name in set(drawn):
        most = -(-drawn.count(name) // 2)
        assert max(own.count(name) for own in passes) == most


@pytest.mark.ci
def test_any_start_goes_on_in_the_same_order_of_pairs(builder):
    whole = pair_order(builder, 2 * 2 * PAIRS + 4)
    for start in [47, 2 * PAIRS - 1, 2 * PAIRS, 4 * PAIRS]:
        assert pair_order(builder, 4, start=start) == whole[start : start + 4]


@pytest.mark.ci
def test_pairs_of_a_mixture(mixture):
    whole = pair_order(mixture, 2 * 144 + 4)
    assert all(len(set(whole[n * 144 : (n + 1) * 144])) == 144 for n in range(2))
    for start in [31, 143, 145, 2 * 144]:
        assert pair_order(mixture, 4, start=start) == whole[start : start + 4]


@pytest.mark.ci
def test_parts_of_the_pairs_are_disjoint(builder):
    parts = []
    for number in range(5):
        own = Shards(builder, "train", number, 5, pair_weighted=True).num_entries
        part = {"input_pipeline_id": number, "num_input_pipelines": 5}
        parts += pair_order(builder, own, **part)
    assert sorted(parts) == sorted(pair_order(builder, 2 * PAIRS))


def test_captions_are_counted_once(tmp_path, monkeypatch):
    builder = build_noise(tmp_path, 12)
    counts = shards.caption_counts(builder, "train[:50%]")
    ids = order(builder, 12, "train[:50%]")
    captions = [int(name.rpartition("/")[2]) % 3 + 1 for name in ids]
    assert sorted(np.concatenate([*counts.values()]).tolist()) == sorted(captions)
    whole = shards.caption_counts(builder, "train")
    assert sum(map(len, whole.values())) == 24
    monkeypatch.setattr(shards, "count_captions", None)
    for path, own in shards.caption_counts(builder, "train").items():
        np.testing.assert_array_equal(own, whole[path])
    monkeypatch.undo()
    # A damaged file is made anew.
    (builder.data_path / "caption_counts.npz").write_bytes(b"PK\x03\x04 junk")
    again = shards.caption_counts(builder, "train")
    assert {path: own.tolist() for path, own in again.items()} == {
        path: own.tolist() for path, own in whole.items()
    }


def test_counts_that_cannot_be_kept_are_counted_again(tmp_path, monkeypatch):
    builder = build_noise(tmp_path, 2)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shards, "atomic_write", full)
    counts = shards.caption_counts(builder, "train")
    assert sum(map(np.sum, counts.values())) == 48


def test_only_what_training_takes_is_parsed(tmp_path):
    parsed = []

    def read(example):
        parsed.append(set(example))
        return example["id"]

    arguments = {"start_step": 0, "seed": 0, "shuffle_buffer_size": 1}
    pairs = ordered_pairs(
        build_noise(tmp_path),
        "train",
        read,
        batch_size=1,
        cache=False,
        input_pipeline_id=0,
        num_input_pipelines=1,
        **arguments,
    )
    ids = {identifier for _, (identifier, _) in pairs.take(24).as_numpy_iterator()}
    assert ids == {f"noise/{number}".encode() for number in range(24)}
    # Not the category nor the key of the picture.
    assert parsed == [{"image", "captions", "id"}]


class ManyTexts(tfds.core.GeneratorBasedBuilder):
    """Images of one or two captions, and one image of very many."""

    VERSION = tfds.core.Version("1.0.0")
    TEXTS, OTHERS = 600, 3000

    def _info(self):
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        image = np.zeros((1, 1, 3), np.uint8)
        for number in range(self.OTHERS + 1):
            count = self.TEXTS if number == self.OTHERS else number % 2 + 1
            captions = [f"{number} {caption}" for caption in range(count)]
            yield number, {"id": str(number), "image": image, "captions": captions}


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory):
    builder = ManyTexts(data_dir=str(tmp_path_factory.mktemp("data")))
    config = tfds.download.DownloadConfig(num_shards=9)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.mark.ci
@pytest.mark.parametrize("shuffle_buffer_size", [100, 1000])
def test_captions_of_an_image_are_spread_as_in_a_random_order(
    many_texts, shuffle_buffer_size
):
    """The counts of the image in batches follow the hypergeometric distribution."""
    stats = pytest.importorskip("scipy.stats")
    texts, batch = ManyTexts.TEXTS, 512
    total = texts + ManyTexts.OTHERS * 3 // 2
    drawn = pair_order(
        many_texts, total, shuffle_buffer_size=shuffle_buffer_size, cycle_length=4
    )
    assert len(set(drawn)) == total
    is_text = np.array([name == str(ManyTexts.OTHERS) for name, _ in drawn])
    assert is_text.sum() == texts
    counts = is_text[: total // batch * batch].reshape(-1, batch).sum(1)
    expected = stats.hypergeom(total, texts, batch)
    assert expected.ppf(1e-4) <= counts.min()
    assert counts.max() <= expected.ppf(1 - 1e-4)
    # Not more even than a random order either: gaps between texts are geometric.
    gaps = np.diff(np.flatnonzero(is_text))
    assert 0.8 < gaps.std() / (total / texts) < 1.2
    # The texts themselves come in a random order.
    numbers = [int(text.split()[1]) for name, text in drawn if " " in text]
    own = [n for n, is_own in zip(numbers, is_text, strict=True) if is_own]
    assert abs(np.corrcoef(own, np.arange(texts))[0, 1]) < 0.2


@pytest.mark.ci
def test_any_start_goes_on_in_the_same_order_with_images_of_many_texts(
    many_texts, monkeypatch
):
    monkeypatch.setattr("align_keras.data.order.MIXED_ENTRIES_PER_BLOCK", 1024)
    total = ManyTexts.TEXTS + ManyTexts.OTHERS * 3 // 2
    whole = pair_order(many_texts, 2 * total + 50, cycle_length=4)
    assert len(set(whole[:total])) == len(set(whole[total : 2 * total])) == total
    for start in [0, 1, 1023, 1024, 1500, total - 3, total, total + 2047, 2 * total]:
        expected = whole[start : start + 40]
        assert pair_order(many_texts, 40, start=start, cycle_length=4) == expected


@pytest.mark.ci
def test_parts_with_images_of_many_texts_are_disjoint(many_texts):
    parts = []
    for number in range(3):
        own = Shards(many_texts, "train", number, 3, pair_weighted=True).num_entries
        part = {"input_pipeline_id": number, "num_input_pipelines": 3}
        parts += pair_order(many_texts, own, cycle_length=4, **part)
    total = ManyTexts.TEXTS + ManyTexts.OTHERS * 3 // 2
    assert len(parts) == len(set(parts)) == total


@pytest.mark.ci
def test_images_that_are_held_have_limits(many_texts, monkeypatch):
    monkeypatch.setattr(shards, "MOST_PER_PASS", 1)
    held = Shards(many_texts, "train", pair_weighted=True)
    assert held.held_counts.tolist() == [ManyTexts.TEXTS]
    total = ManyTexts.TEXTS + ManyTexts.OTHERS * 3 // 2
    assert held.num_entries == total
    # Images that do not fit are in the passes again.
    for name in ("MAX_HELD_IMAGES", "MAX_HELD_BYTES"):
        monkeypatch.setattr(shards, name, 0)
        none = Shards(many_texts, "train", pair_weighted=True)
        assert not len(none.held) and none.num_entries == total
        monkeypatch.undo()

"""Tests of the order of records, and of the files and features that are read.

test_batches.py tests the order of batches.
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

# The corpus has 48 pairs in 40 files. With 7 files per window, an epoch has 6 windows.
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


def test_the_corpus_has_the_expected_number_of_files(builder):
    assert builder.info.splits["train"].num_shards == FILES
    assert builder.info.splits["train"].num_examples == PAIRS


@pytest.mark.parametrize("split", ["train", "train[10%:60%]"])
def test_epochs_contain_all_records_once_in_different_orders(builder, split):
    size = builder.info.splits[split].num_examples
    ids = order(builder, 3 * size, split)
    epochs = [ids[n * size : (n + 1) * size] for n in range(3)]
    assert len(set(epochs[0])) == size
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_epochs_read_the_files_in_different_orders(builder):
    # A buffer of one record doesn't shuffle, and no files are interleaved.
    ids = order(builder, 2 * PAIRS, shuffle_buffer_size=1, cycle_length=1)
    assert sorted(ids[:PAIRS]) == sorted(ids[PAIRS:])
    assert ids[:PAIRS] != ids[PAIRS:]


def test_the_order_depends_only_on_the_seed(builder):
    first, second = order(builder, PAIRS), order(builder, PAIRS, seed=1)
    assert first != second
    # The windows have different files, not only another inner order.
    assert set(first[:8]) != set(second[:8])
    tf.random.set_seed(7)
    assert order(builder, PAIRS) == first


def test_the_order_continues_from_any_position(builder):
    uninterrupted = order(builder, 3 * PAIRS + 4)
    for start in [9, PAIRS - 1, PAIRS, 3 * PAIRS]:
        assert order(builder, 4, start=start) == uninterrupted[start : start + 4]


@pytest.mark.ci
def test_the_order_of_a_mixture_continues_from_any_position(mixture):
    uninterrupted = order(mixture, 3 * 72 + 4)
    assert all(len(set(uninterrupted[n * 72 : (n + 1) * 72])) == 72 for n in range(3))
    for start in [31, 72, 3 * 72]:
        assert order(mixture, 4, start=start) == uninterrupted[start : start + 4]
    # Two thirds of each section are from the large member.
    large = np.cumsum([identifier.startswith("large/") for identifier in uninterrupted])
    assert np.abs(large - np.arange(1, len(uninterrupted) + 1) * 2 / 3).max() < 1


@pytest.mark.ci
def test_resuming_reads_only_one_window(tmp_path):
    # With 12 files and 5 files per window, the last window of an epoch has two files.
    builder = build_noise(tmp_path, 12)
    start = {"start": 24 - 3, "cycle_length": 5}
    expected, num_needed = order(builder, 3, **start), 0
    files = sorted(builder.data_path.glob("*.tfrecord*"))
    assert len(files) == 12
    for file in files:
        content = file.read_bytes()
        # A file that isn't read remains damaged.
        file.write_bytes(b"junk" * 99)
        try:
            assert order(builder, 3, **start) == expected
        except tf.errors.DataLossError:
            num_needed += 1
            file.write_bytes(content)
    assert num_needed == 2


@pytest.mark.ci
def test_parts_of_pipelines_are_equally_large_and_disjoint(builder):
    for split in ("train", "train[10%:60%]"):
        size = builder.info.splits[split].num_examples
        parts = []
        for number in range(5):
            part_size = Shards(builder, split, number, 5).takes.sum()
            assert part_size in (size // 5, -(-size // 5))
            part = {"input_pipeline_id": number, "num_input_pipelines": 5}
            parts.append(order(builder, part_size, split, **part))
        assert sorted(sum(parts, [])) == sorted(order(builder, size, split))


def test_separate_files_need_enough_files_in_all_members(builder, mixture):
    assert enough_shards(builder, "train", FILES)
    assert not enough_shards(builder, "train", FILES + 1)
    assert enough_shards(mixture, "train", 5)
    assert not enough_shards(mixture, "train", 6)


def test_other_file_formats_are_refused(builder, monkeypatch):
    monkeypatch.setattr(type(builder.info), "file_format", tfds.core.FileFormat.RIEGELI)
    with pytest.raises(InputError, match="riegeli"):
        order(builder, 1)


def pair_order(builder, count, split="train", start=0, **arguments):
    """Returns (id, caption) of each entry in the pair-weighted order."""
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

    entries = records.take(count).map(entry).as_numpy_iterator()
    return [(name.decode(), caption.decode()) for name, caption in entries]


# The 48 images have 1, 2 or 3 captions, which are 96 pairs in two passes.
@pytest.mark.ci
def test_pair_weighted_epochs_contain_all_captions_in_different_orders(builder):
    entries = pair_order(builder, 2 * 2 * PAIRS)
    epochs = entries[: 2 * PAIRS], entries[2 * PAIRS :]
    assert len(set(epochs[0])) == 2 * PAIRS
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    part = pair_order(builder, 200, "train[10%:60%]")
    size = len(set(part))
    images = builder.info.splits["train[10%:60%]"].num_examples
    assert len({name for name, _ in part}) == images < size < 3 * images
    assert len(set(part[:size])) == size and sorted(part[:size]) == sorted(set(part))


@pytest.mark.ci
def test_the_captions_of_an_image_are_divided_among_the_passes(builder):
    """A pass contains at most half of the captions of an image, rounded up."""
    names = [name for name, _ in pair_order(builder, 2 * PAIRS)]
    sizes = Shards(builder, "train", pair_weighted=True).sizes.sum(axis=1)
    assert len(sizes) == 2 and sizes.sum() == 2 * PAIRS
    passes = names[: sizes[0]], names[sizes[0] :]
    for name in set(names):
        half = -(-names.count(name) // 2)
        assert max(names_of_pass.count(name) for names_of_pass in passes) == half


@pytest.mark.ci
def test_the_pair_weighted_order_continues_from_any_position(builder):
    uninterrupted = pair_order(builder, 2 * 2 * PAIRS + 4)
    for start in [47, 2 * PAIRS, 4 * PAIRS]:
        assert pair_order(builder, 4, start=start) == uninterrupted[start : start + 4]


@pytest.mark.release
def test_the_pair_weighted_order_of_a_mixture_continues_from_any_position(mixture):
    uninterrupted = pair_order(mixture, 2 * 144 + 4)
    assert all(
        len(set(uninterrupted[n * 144 : (n + 1) * 144])) == 144 for n in range(2)
    )
    for start in [31, 143, 145, 2 * 144]:
        assert pair_order(mixture, 4, start=start) == uninterrupted[start : start + 4]


@pytest.mark.release
def test_pair_weighted_parts_of_pipelines_are_disjoint(builder):
    parts = []
    for number in range(5):
        size = Shards(builder, "train", number, 5, pair_weighted=True).num_entries
        part = {"input_pipeline_id": number, "num_input_pipelines": 5}
        parts += pair_order(builder, size, **part)
    assert sorted(parts) == sorted(pair_order(builder, 2 * PAIRS))


def test_captions_are_counted_once(tmp_path, monkeypatch):
    builder = build_noise(tmp_path, 12)
    counts = shards.caption_counts(builder, "train[:50%]")
    ids = order(builder, 12, "train[:50%]")
    captions = [int(name.rpartition("/")[2]) % 3 + 1 for name in ids]
    assert sorted(np.concatenate([*counts.values()]).tolist()) == sorted(captions)
    all_counts = shards.caption_counts(builder, "train")
    assert sum(map(len, all_counts.values())) == 24
    monkeypatch.setattr(shards, "count_captions", None)
    for path, file_counts in shards.caption_counts(builder, "train").items():
        np.testing.assert_array_equal(file_counts, all_counts[path])
    monkeypatch.undo()
    # If the cache file is damaged, the captions are counted again.
    (builder.data_path / "caption_counts.npz").write_bytes(b"PK\x03\x04 junk")
    recounted = shards.caption_counts(builder, "train")
    assert {path: file_counts.tolist() for path, file_counts in recounted.items()} == {
        path: file_counts.tolist() for path, file_counts in all_counts.items()
    }


def test_captions_are_counted_if_the_counts_cannot_be_stored(tmp_path, monkeypatch):
    builder = build_noise(tmp_path, 2)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shards, "atomic_write", full)
    counts = shards.caption_counts(builder, "train")
    assert sum(map(np.sum, counts.values())) == 48


def test_only_the_features_for_training_are_parsed(tmp_path):
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
    # The features `category` and `image_key` aren't parsed.
    assert parsed == [{"image", "captions", "id"}]


class ManyTexts(tfds.core.GeneratorBasedBuilder):
    """Builder of images with one or two captions, and one image with 200 captions."""

    VERSION = tfds.core.Version("1.0.0")
    # Number of captions of one image, and number of the other images.
    TEXTS, NUM_IMAGES = 200, 1000

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
        for number in range(self.NUM_IMAGES + 1):
            count = self.TEXTS if number == self.NUM_IMAGES else number % 2 + 1
            captions = [f"{number} {caption}" for caption in range(count)]
            yield number, {"id": str(number), "image": image, "captions": captions}


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory):
    builder = ManyTexts(data_dir=str(tmp_path_factory.mktemp("data")))
    config = tfds.download.DownloadConfig(num_shards=9)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.mark.ci
@pytest.mark.parametrize(
    "shuffle_buffer_size", [100, pytest.param(1000, marks=pytest.mark.release)]
)
def test_many_captions_of_an_image_are_at_random_positions(
    many_texts, shuffle_buffer_size
):
    """The number of captions in a batch follows the hypergeometric distribution."""
    stats = pytest.importorskip("scipy.stats")
    texts, batch = ManyTexts.TEXTS, 128
    total = texts + ManyTexts.NUM_IMAGES * 3 // 2
    entries = pair_order(
        many_texts, total, shuffle_buffer_size=shuffle_buffer_size, cycle_length=4
    )
    assert len(set(entries)) == total
    is_text = np.array([name == str(ManyTexts.NUM_IMAGES) for name, _ in entries])
    assert is_text.sum() == texts
    counts = is_text[: total // batch * batch].reshape(-1, batch).sum(1)
    expected = stats.hypergeom(total, texts, batch)
    assert expected.ppf(1e-4) <= counts.min()
    assert counts.max() <= expected.ppf(1 - 1e-4)
    # The positions aren't too even either. The gaps have a geometric distribution.
    gaps = np.diff(np.flatnonzero(is_text))
    assert 0.8 < gaps.std() / (total / texts) < 1.2
    # The order of the captions is random too.
    numbers = np.array([int(text.split()[1]) for _, text in entries])
    assert abs(np.corrcoef(numbers[is_text], np.arange(texts))[0, 1]) < 0.2


@pytest.mark.release
def test_the_order_with_an_image_of_many_captions_continues_from_any_position(
    many_texts, monkeypatch
):
    monkeypatch.setattr("align_keras.data.order.MIXED_ENTRIES_PER_BLOCK", 1024)
    total = ManyTexts.TEXTS + ManyTexts.NUM_IMAGES * 3 // 2
    uninterrupted = pair_order(many_texts, 2 * total + 50, cycle_length=4)
    assert (
        len(set(uninterrupted[:total]))
        == len(set(uninterrupted[total : 2 * total]))
        == total
    )
    for start in [0, 1, 1023, 1024, 1500, total - 3, total, total + 2047, 2 * total]:
        expected = uninterrupted[start : start + 40]
        assert pair_order(many_texts, 40, start=start, cycle_length=4) == expected


@pytest.mark.ci
def test_parts_with_an_image_of_many_captions_are_disjoint(many_texts):
    parts = []
    for number in range(3):
        size = Shards(many_texts, "train", number, 3, pair_weighted=True).num_entries
        part = {"input_pipeline_id": number, "num_input_pipelines": 3}
        parts += pair_order(many_texts, size, cycle_length=4, **part)
    total = ManyTexts.TEXTS + ManyTexts.NUM_IMAGES * 3 // 2
    assert len(parts) == len(set(parts)) == total


@pytest.mark.ci
def test_the_images_in_memory_are_limited(many_texts, monkeypatch):
    monkeypatch.setattr(shards, "MOST_PER_PASS", 1)
    held = Shards(many_texts, "train", pair_weighted=True)
    assert held.held_counts.tolist() == [ManyTexts.TEXTS]
    total = ManyTexts.TEXTS + ManyTexts.NUM_IMAGES * 3 // 2
    assert held.num_entries == total
    # Images above the limits are read in the passes.
    for name in ("MAX_HELD_IMAGES", "MAX_HELD_BYTES"):
        monkeypatch.setattr(shards, name, 0)
        without_held = Shards(many_texts, "train", pair_weighted=True)
        assert not len(without_held.held) and without_held.num_entries == total
        monkeypatch.undo()

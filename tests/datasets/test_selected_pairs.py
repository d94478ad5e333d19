"""Tests of the pairs of a corpus that a condition on their scores selects."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_keras.config import load_config
from align_keras.config.data_config import DataConfig, SourceConfig
from align_keras.data.order import shuffled_records
from align_keras.data.shards import check_data_service
from align_keras.data.stored_pairs import (
    check_batch_size,
    read_captions,
    read_image_keys,
    read_retrieval_set,
    stored_images,
)
from align_keras.datasets import open_sources
from align_keras.datasets.fingerprints import pairs_fingerprint
from align_keras.datasets.named_corpora import open_corpus
from align_keras.runs.config_checks import check_run_config
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import assert_equal, batches
from tests.helpers.scored_corpus import similarity, write_scores, write_shards
from tests.helpers.source_files import write_tars

WHERE = "similarity > 0.5 and language <> 'de'"
LISTS = ("captions", "rules", "languages", "page_urls", "sources")


def holds(example, caption):
    """Returns True if `WHERE` holds for a caption of an example."""
    text = example["captions"][caption].decode()
    is_similar = similarity(example["id"].decode(), text) > 0.5
    return is_similar and example["languages"][caption] != b"de"


def expected_examples(folder, split):
    """Reads all examples with TFDS and removes captions for which `WHERE` is false."""
    builder = tfds.builder_from_directory(folder)
    skip = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        rows = list(builder.as_data_source(split, decoders=skip))
        rows = [{**row, "id": bytes(row["id"])} for row in rows]
    else:
        order = tfds.ReadConfig(interleave_cycle_length=1)
        rows = tfds.as_numpy(
            builder.as_dataset(split, decoders=skip, read_config=order)
        )
    examples = []
    for row in rows:
        kept = [n for n in range(len(row["captions"])) if holds(row, n)]
        if kept:
            lists = {name: [bytes(row[name][n]) for n in kept] for name in LISTS}
            examples.append({**row, **lists})
    return examples


def write_corpus(folder, file_format="tfrecord"):
    """Writes shards with scores, and returns their folder."""
    path = write_shards(folder, file_format=file_format)
    write_scores(folder)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def builder(shards):
    return open_corpus(str(shards), where=WHERE)


def check_selected(folder, builder, split):
    """Compares the selected pairs with those that TFDS reads and `holds` selects."""
    expected = expected_examples(folder, split)
    pairs = read_retrieval_set(builder, split)
    assert pairs.ids == [example["id"].decode() for example in expected]
    assert pairs.images == [bytes(example["image"]) for example in expected]
    assert [[text.encode() for text in texts] for texts in pairs.captions] == [
        example["captions"] for example in expected
    ]
    assert 0 < len(pairs) == builder.info.splits[split].num_examples < 40


def test_selected_examples_are_those_for_which_the_condition_holds(shards, builder):
    check_selected(shards, builder, "train")


@pytest.mark.ci
def test_parts_of_splits_are_selected(shards, builder):
    check_selected(shards, builder, "test+train[50%:]")


@pytest.mark.ci
def test_pairs_of_array_records_are_selected(tmp_path):
    pytest.importorskip("array_record")
    folder = write_corpus(tmp_path, "array_record")
    builder = open_corpus(str(folder), where=WHERE)
    check_selected(folder, builder, "train[50%:]")
    from_start = batches(builder, 3, batch_size=6)
    assert_equal(from_start[1:], batches(builder, 2, batch_size=6, start_step=1))


@pytest.mark.ci
def test_all_lists_of_an_example_have_the_selected_captions(shards, builder):
    expected = expected_examples(shards, "train")
    skip = {"image": tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split="train", decoders=skip)
    for example, other in zip(tfds.as_numpy(dataset), expected, strict=True):
        for name in LISTS:
            assert example[name].tolist() == other[name]
        assert example["width"] == other["width"]


@pytest.mark.ci
def test_other_readers_of_a_split_read_the_selected_pairs(shards, builder):
    expected = expected_examples(shards, "train")
    images = list(stored_images(builder, "train").as_numpy_iterator())
    assert images == [bytes(example["image"]) for example in expected]
    keys = {bytes(example["image_key"]).decode() for example in expected}
    assert read_image_keys(builder, "train") == keys
    captions = [text.decode() for example in expected for text in example["captions"]]
    assert read_captions(builder, "train") == captions


def entries(builder, start, count, **options):
    """Returns (serialized example, number of the caption) of shuffled entries."""
    dataset = shuffled_records(
        builder,
        "train",
        seed=3,
        start=start,
        shuffle_buffer_size=5,
        pair_weighted=True,
        **options,
    )
    return [entry[1:] for entry in dataset.take(count).as_numpy_iterator()]


@pytest.mark.ci
def test_an_epoch_has_each_selected_pair_once_and_starts_anywhere(shards, builder):
    captions = [
        (example["id"], caption)
        for example in expected_examples(shards, "train")
        for caption in example["captions"]
    ]
    features = builder.info.features
    two_epochs = entries(builder, 0, 2 * len(captions))
    for epoch in (two_epochs[: len(captions)], two_epochs[len(captions) :]):
        examples = [
            (features.deserialize_example_np(record), caption)
            for record, caption in epoch
        ]
        read = [(row["id"], row["captions"][caption]) for row, caption in examples]
        assert sorted(read) == sorted(captions)
    for start in (1, len(captions) // 2, len(captions) + 3):
        assert entries(builder, start, 7) == two_epochs[start : start + 7]


@pytest.mark.ci
def test_hosts_read_separate_parts_of_the_selected_pairs(builder):
    size = builder.info.splits["train"].num_examples
    parts = []
    for host in range(2):
        count = size * (host + 1) // 2 - size * host // 2
        dataset = shuffled_records(
            builder,
            "train",
            seed=0,
            start=0,
            shuffle_buffer_size=5,
            input_pipeline_id=host,
            num_input_pipelines=2,
        )
        parts += [record for _, record in dataset.take(count).as_numpy_iterator()]
    assert len(set(parts)) == size


@pytest.mark.ci
def test_training_can_start_at_any_step(builder):
    from_start = batches(builder, 4, batch_size=6, cache=True)
    resumed = batches(builder, 1, batch_size=6, start_step=3, cache=True)
    assert_equal(from_start[3:], resumed)


def test_the_fingerprint_depends_on_the_selection(shards, builder):
    same = open_corpus(str(shards), where=f"({WHERE})")
    assert pairs_fingerprint(builder, "train") == pairs_fingerprint(same, "train")
    others = [
        open_corpus(str(shards)),
        open_corpus(str(shards), where="similarity > 0.5"),
    ]
    fingerprints = {pairs_fingerprint(other, "train") for other in others}
    assert len(fingerprints | {pairs_fingerprint(builder, "train")}) == 3
    # Another caption of the same image is another selection.
    first, second = (
        open_corpus(str(shards), where=f"id = '002' and caption_number = {number}")
        for number in range(2)
    )
    assert pairs_fingerprint(first, "train") != pairs_fingerprint(second, "train")


def test_the_configuration_selects_the_training_pairs(shards, builder):
    data = DataConfig(corpus=str(shards), where=WHERE)
    prepared = prepare_corpus(data, 32)
    size = builder.info.splits["train"].num_examples
    assert prepared.info.splits["train"].num_examples == size
    (line,) = prepared.info.metadata["summary"]
    assert line.startswith(f"where {WHERE} keeps ") and "of 40 images" in line


@pytest.mark.ci
def test_a_condition_selects_pairs_of_several_corpora(shards, builder, tmp_path):
    # The second corpus has the same pairs.
    shutil.copytree(shards.parents[1], tmp_path / "copy")
    copy = tmp_path / "copy" / shards.parent.name / shards.name
    data = DataConfig(
        source=(
            SourceConfig(path=str(shards), weight=3.0),
            SourceConfig(path=str(copy), weight=1.0),
        ),
        where=WHERE,
    )
    mixture = prepare_corpus(data, 32)
    size = builder.info.splits["train"].num_examples
    assert mixture.info.splits["train"].num_examples == 2 * size
    expected = read_captions(builder, "train")
    assert sorted(read_captions(mixture, "train")) == sorted(2 * expected)
    with pytest.raises(InputError, match="where"):
        open_sources([str(shards), str(write_tars(tmp_path / "tars"))], where=WHERE)


@pytest.mark.ci
def test_a_split_without_a_selected_pair_is_reported(shards):
    test_ids = read_retrieval_set(open_corpus(str(shards)), "test").ids
    pairs = open_corpus(str(shards), where=f"id = '{test_ids[0]}'")
    assert read_retrieval_set(pairs, "test").ids == test_ids[:1]
    with pytest.raises(InputError, match="train"):
        read_retrieval_set(pairs, "train")


def test_fewer_pairs_than_a_batch_are_reported(builder):
    size = builder.info.splits["train"].num_examples
    check_batch_size(size, builder, "train")
    with pytest.raises(InputError, match=f"{size} pairs"):
        check_batch_size(size + 1, builder, "train")


def test_a_data_service_refuses_selected_pairs(builder):
    with pytest.raises(InputError, match="and with `where`"):
        check_data_service(builder, "grpc://localhost:1")


def test_where_requires_a_scored_corpus(tmp_path):
    shards = write_shards(tmp_path)
    with pytest.raises(InputError, match="align-keras corpus score"):
        open_corpus(str(shards), where="similarity > 0")
    write_scores(tmp_path)
    index = shards / "index.json"
    content = json.loads(index.read_text())
    content["shards"][0]["sha256"] = "0"
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="other shards"):
        open_corpus(str(shards), where="similarity > 0")


def test_a_run_checks_the_condition_before_it_starts_tensorflow(shards):
    def check(corpus, where):
        overrides = {
            "task.train_data.corpus": corpus,
            "task.train_data.where": where,
            "task.validation_data.corpus": str(shards),
        }
        check_run_config(load_config(params_override=[overrides]), False)

    check(str(shards), "similarity > 0.5")
    sources = {
        "task.train_data.source": [str(shards), "shards.tar"],
        "task.train_data.where": "similarity > 0.5",
        "task.validation_data.corpus": str(shards),
    }
    with pytest.raises(InputError, match="Received: shards.tar"):
        check_run_config(load_config(params_override=[sources]), False)
    with pytest.raises(InputError, match="quality.*caption, caption_number"):
        check(str(shards), "quality > 0.5")
    with pytest.raises(InputError, match=r"task\.train_data\.where.*icons"):
        check("icons", "similarity > 0.5")


def test_captions_of_images_in_large_and_small_parts(shards, builder):
    """The captions of each image are found at any position of the selection."""
    for shard in builder.selection.shards.values():
        captions = [shard.captions_of(image) for image in range(len(shard.images))]
        np.testing.assert_array_equal(np.concatenate(captions), shard.captions)
        assert [len(numbers) for numbers in captions] == shard.counts.tolist()
        assert (shard.counts <= shard.all_counts).all()

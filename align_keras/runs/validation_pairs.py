"""Validation pairs of a run, on which recall is measured."""

from align_keras.config.experiment_config import TaskConfig
from align_keras.config.load import is_same_table
from align_keras.data.stored_pairs import RetrievalSet, read_image_keys, split_size
from align_keras.runs.run_corpora import RunCorpora
from align_keras.training.checks import Finding
from align_keras.training.checks.training_pairs import (
    MAX_COMPARED,
    check_shared_images,
)
from align_keras.utils.progress import say


def report_validation_pairs(
    task: TaskConfig, corpora: RunCorpora, pairs: RetrievalSet
) -> None:
    """Prints the split on which recall is measured, and its number of pairs."""
    validation = task.validation_data
    captions = sum(len(image_captions) for image_captions in pairs.captions)
    line = (
        f"recall is measured on {len(pairs):,} images with {captions:,} captions "
        f"of {corpora.validation_name}[{validation.tfds_split}]"
    )
    if validation.pairs is not None and validation.tfds_split != "all":
        if not is_same_table(validation.pairs, task.train_data.pairs):
            line += ". task.validation_data.tfds_split=all measures the whole table"
    say(line)


def find_shared_images(
    task: TaskConfig, corpora: RunCorpora, pairs: RetrievalSet
) -> Finding | None:
    """Returns a finding if some validation images are also training images."""
    train = task.train_data
    validation = task.validation_data
    # The splits of one corpus share no image, unless they were made in other ways.
    is_one_corpus = (
        corpora.train_name == corpora.validation_name
        and train.split_by == validation.split_by
    )
    if is_one_corpus and (train.tfds_split, validation.tfds_split) == ("train", "test"):
        return None
    if split_size(corpora.train, train.tfds_split) > MAX_COMPARED:
        return None
    train_keys = read_image_keys(corpora.train, train.tfds_split)
    shared = sum(key in train_keys for key in pairs.image_keys)
    return check_shared_images(shared, len(pairs))

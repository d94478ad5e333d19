"""Validation pairs of a run, on which recall is measured."""

from align_keras.config import TaskConfig, is_same_table
from align_keras.data.stored_pairs import RetrievalSet, read_image_keys, split_size
from align_keras.runs.run_corpora import RunCorpora
from align_keras.utils.progress import say

# Maximum number of training images that are compared with the validation images.
_MAX_COMPARED = 50_000


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


def report_shared_images(
    task: TaskConfig, corpora: RunCorpora, pairs: RetrievalSet
) -> None:
    """Prints the number of validation images that are also training images."""
    train = task.train_data
    validation = task.validation_data
    # The splits of one corpus share no image.
    is_one_corpus = corpora.train_name == corpora.validation_name
    if is_one_corpus and (train.tfds_split, validation.tfds_split) == ("train", "test"):
        return
    if split_size(corpora.train, train.tfds_split) > _MAX_COMPARED:
        return
    train_keys = read_image_keys(corpora.train, train.tfds_split)
    shared = sum(key in train_keys for key in pairs.image_keys)
    if shared:
        say(
            f"{shared:,} of the {len(pairs):,} validation images are also training "
            "images, so recall is too high. Remove these images from the training or "
            "the validation pairs."
        )

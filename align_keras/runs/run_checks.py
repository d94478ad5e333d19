"""Checks of a run's configuration before TensorFlow starts."""

import os
import pathlib
import re

from align_keras.config import ExperimentConfig
from align_keras.corpus.pair_files import count_images
from align_keras.utils.errors import InputError
from align_keras.utils.remote import is_url


def check_run_config(config: ExperimentConfig, has_checkpoint: bool) -> None:
    """Raises for mistakes in the data of a run that can be seen without TensorFlow.

    Args:
        config: `ExperimentConfig`.
        has_checkpoint: bool, True if the run resumes. Its pairs are compared with those
            that it began with later, so they are not counted here.

    Raises:
        InputError: if a corpus is missing, if the test pairs would choose the best
            checkpoint, or if there are too few readable pairs.
    """
    _check_corpora(config)
    _check_selection(config)
    if not has_checkpoint:
        _check_pairs(config)


def _check_corpora(config: ExperimentConfig) -> None:
    """Raises unless training and validation name a corpus or existing pairs."""
    for section in ("train_data", "validation_data"):
        data = getattr(config.task, section)
        if data.corpus is None and data.source is None:
            raise InputError(
                f"task.{section}.corpus must name a corpus, received null. Give an "
                "--experiment, a --config_file, or "
                f"--params_override task.{section}.corpus=icons."
            )
        if data.pairs and not is_url(data.pairs) and not os.path.exists(data.pairs):
            raise InputError(
                f"task.{section}.pairs: no such file or folder: {data.pairs}. Check "
                "the path."
            )


def _check_pairs(config: ExperimentConfig) -> None:
    """Raises for tables and folders that hold too few readable pairs.

    It doesn't decode images, which would need TensorFlow.
    """
    names = ("image_column", "caption_column", "encoding", "max_bad_fraction")
    counts: dict[tuple, int] = {}
    for data in (config.task.train_data, config.task.validation_data):
        if data.pairs is None or is_url(data.pairs):
            continue
        reading = {name: getattr(data, name) for name in names}
        key = data.pairs, *reading.values()
        if key not in counts:
            counts[key] = count_images(data.pairs, **reading)
        # The split `train` leaves at least one image for tests.
        limit = counts[key] - (data.tfds_split == "train")
        if data is config.task.train_data and data.global_batch_size > limit:
            raise InputError(
                f"task.train_data.global_batch_size may be at most the {limit} images "
                f"to train on of {data.pairs}, received {data.global_batch_size}. Use "
                f"--params_override task.train_data.global_batch_size={max(limit, 1)} "
                "or less, or give more pairs, at least two different images."
            )


def _check_selection(config: ExperimentConfig) -> None:
    """Raises if the best checkpoint would be chosen by the test pairs."""
    trainer, data = config.trainer, config.task.validation_data
    if trainer.best_checkpoint_eval_metric is None or trainer.best_checkpoint_by_test:
        return
    table = pathlib.Path(data.pairs).name if data.pairs else ""
    for name, value in (("tfds_split", data.tfds_split), ("pairs", table)):
        # The split `all` of a corpus includes its split `test`.
        if names_test(value) or (value == "all" and not table):
            raise InputError(
                f"task.validation_data.{name} must name no test pairs where "
                "trainer.best_checkpoint_eval_metric chooses a checkpoint by them, "
                f"received {value!r}. Name other pairs, such as Karpathy's val or a "
                "part of train that isn't trained on, or set "
                "trainer.best_checkpoint_by_test=true."
            )


def names_test(name: str) -> bool:
    """Returns True if the name of a split or of a table contains the word test.

    Example:
    >>> [names_test(name) for name in ("test[:9]", "karpathy_test.tsv", "latest")]
    [True, True, False]
    """
    return re.search(r"(?<![a-z])tests?(?![a-z])", name.lower()) is not None

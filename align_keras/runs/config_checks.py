"""Checks of a run's configuration before TensorFlow starts."""

import importlib.util
import os
import pathlib
import re

from align_keras.config import ExperimentConfig
from align_keras.config.data_config import DataConfig
from align_keras.corpus.pair_files import count_images
from align_keras.corpus.scores.score_table import ScoreTable, scores_path
from align_keras.corpus.shard_folder import INDEX
from align_keras.embedders.locations import locate_model
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError, MissingExtraError


def check_run_config(config: ExperimentConfig, has_checkpoint: bool) -> None:
    """Raises for mistakes in the configuration that are found without TensorFlow.

    Args:
        config: `ExperimentConfig`.
        has_checkpoint: True if the run resumes. In this case the teacher and the
            pairs are not checked, because they are compared with those of the start
            later.

    Raises:
        InputError: if the package of a tracker or a corpus is missing, if the test
            pairs would choose the best checkpoint, if a teacher doesn't exist, or if
            there are too few readable pairs.
    """
    _check_trackers(config)
    _check_corpora(config)
    _check_selection(config)
    if not has_checkpoint:
        check_teachers(config)
        _check_pairs(config)


def check_teachers(config: ExperimentConfig) -> None:
    """Raises InputError if a teacher with a configured name doesn't exist."""
    for teacher in config.task.distillation.teacher or ():
        try:
            locate_model(teacher.model)
        except InputError as error:
            raise InputError(f"task.distillation.teacher: {error}") from None


def _check_trackers(config: ExperimentConfig) -> None:
    """Raises if the package of a tracker isn't installed. It has the tracker's name."""
    for name in config.trainer.callbacks:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(
                f"trainer.callbacks needs {name}",
                "tensorflow" if name == "tensorboard" else name,
                f", or remove {name} from trainer.callbacks",
            )


def _check_corpora(config: ExperimentConfig) -> None:
    """Raises unless training and validation have a corpus or pairs."""
    for section in ("train_data", "validation_data"):
        data = getattr(config.task, section)
        if data.corpus is None and data.source is None:
            raise InputError(
                f"task.{section}.corpus must be the name of a corpus. Received: null. "
                "Set --experiment, --config_file, or --params_override "
                f"task.{section}.corpus=icons."
            )
        if data.where is not None:
            _check_where(section, data)


def _check_where(section: str, data: DataConfig) -> None:
    """Raises unless all corpora have scores with the columns of the condition."""
    if data.source is None:
        key = f"task.{section}.corpus"
        folders = [str(data.corpus)]
    else:
        key = f"task.{section}.source"
        folders = [source.path for source in data.source]
    for folder in folders:
        if not os.path.isfile(os.path.join(folder, INDEX)):
            raise InputError(
                f"task.{section}.where must be null unless {key} is a folder of shards "
                f"that `align-keras corpus` wrote. Received: {folder}. Check the path, "
                "or leave it out."
            )
        table = ScoreTable(scores_path(folder))
        table.check_shards(folder)
        table.read_condition(str(data.where))


def _check_pairs(config: ExperimentConfig) -> None:
    """Raises for tables and folders that contain too few readable pairs.

    Images are not decoded, which would need TensorFlow.
    """
    names = ("image_column", "caption_column", "encoding", "max_bad_fraction")
    counts: dict[tuple, int] = {}
    for data in (config.task.train_data, config.task.validation_data):
        if data.pairs is None or is_url(data.pairs):
            continue
        reading = {name: getattr(data, name) for name in names}
        if data.caption_sources is not None:
            reading["caption_sources"] = tuple(data.caption_sources)
        key = data.pairs, *reading.values()
        if key not in counts:
            counts[key] = count_images(data.pairs, **reading)
        # The split `train` leaves at least one image for tests.
        limit = counts[key] - (data.tfds_split == "train")
        if data is config.task.train_data and data.global_batch_size > limit:
            raise InputError(
                "task.train_data.global_batch_size must be at most the number of "
                f"training images, {limit} of {data.pairs}. Received: "
                f"{data.global_batch_size}. Set --params_override "
                f"task.train_data.global_batch_size={max(limit, 1)} or less, or add "
                "pairs. At least two different images are needed."
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
                f"task.validation_data.{name} must not contain test pairs if "
                "trainer.best_checkpoint_eval_metric selects the best checkpoint. "
                f"Received: {value!r}. Use other pairs, such as Karpathy's val or a "
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

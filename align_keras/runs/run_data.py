"""The data of a run: corpora, vocabulary, batches, and the checks of them."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from align_keras import data
from align_keras.config import DataConfig, ExperimentConfig, TaskConfig, is_same_table
from align_keras.data.stored_pairs import (
    RetrievalSet,
    read_captions,
    read_image_keys,
    split_size,
)
from align_keras.datasets import build_corpus, open_sources
from align_keras.datasets.fingerprints import pairs_fingerprint
from align_keras.images import crop_size_to_resize_size
from align_keras.models import ALIGN
from align_keras.models.preset_io import check_vocabulary_file
from align_keras.models.preset_table import with_preset
from align_keras.models.warm_start import text_weights
from align_keras.runs.about_run import save_data_notes
from align_keras.runs.run_folder import check_inputs, newest_step
from align_keras.text import (
    learn_vocabulary,
    load_vocabulary,
    save_vocabulary,
    vocabulary_fingerprint,
)
from align_keras.utils.progress import progress_bar, say

# Training images whose keys are compared with those of the validation images.
_MAX_COMPARED = 50_000


# === Corpora ===


@dataclasses.dataclass(frozen=True)
class RunCorpora:
    """The prepared corpora of a run.

    Attributes:
        train: TFDS builder or `Mixture` of the training pairs.
        validation: the same of the validation pairs.
        notes: dict from the name of a corpus to the metadata of its builder.
    """

    train: Any
    validation: Any
    notes: dict[str, dict]


def open_corpora(task: TaskConfig) -> RunCorpora:
    """Opens the training and the validation corpus, and builds them if necessary."""
    image_size = with_preset(task.model).image_encoder.image_size
    train = prepare_corpus(task.train_data, image_size)
    validation = prepare_corpus(task.validation_data, image_size)
    # Both corpora may be tables of the user, so the path is the name.
    notes = {
        corpus_name(task.train_data): dict(train.info.metadata or {}),
        corpus_name(task.validation_data): dict(validation.info.metadata or {}),
    }
    return RunCorpora(train, validation, notes)


def prepare_corpus(data_config: DataConfig, image_size: int) -> Any:
    """Opens a corpus, and builds it if necessary.

    Args:
        data_config: `DataConfig`.
        image_size: int, pixels of the image encoder's input. Images are stored large
            enough for it.

    Returns:
        TFDS builder or `Mixture`.
    """
    columns: dict[str, Any] = {
        "image_column": data_config.image_column,
        "caption_column": data_config.caption_column,
        "max_bad_fraction": data_config.max_bad_fraction,
        "shorter_side": crop_size_to_resize_size(image_size),
    }
    sources = data_config.source
    if sources is not None:
        weights = [source.weight for source in sources if source.weight is not None]
        paths = [source.path for source in sources]
        return open_sources(paths, weights or None, **columns)
    with contextlib.ExitStack() as stack:
        bar = progress_bar(f"building {data_config.corpus}", "images", total=0)

        def show_progress(done: int, total: int) -> None:
            # A corpus that is already built shows no bar.
            if not bar.total:
                stack.enter_context(bar)
            # The total of a mixture grows when its next corpus begins.
            bar.total = total
            bar.advance(done - bar.done)

        return build_corpus(
            str(data_config.corpus),  # `check_corpora` refuses None.
            data_dir=data_config.tfds_data_dir,
            pairs=data_config.pairs,
            encoding=data_config.encoding,
            progress=show_progress,
            **columns,
        )


def corpus_name(data_config: DataConfig) -> str:
    """Returns the name or the path of the pairs that a section reads."""
    if data_config.source is not None:
        return ", ".join(source.path for source in data_config.source)
    return str(data_config.pairs or data_config.corpus)


def report_and_save_notes(
    directory: pathlib.Path, notes: Mapping[str, Mapping]
) -> None:
    """Prints what the corpora hold and have dropped, and saves it in the folder."""
    for name, note in notes.items():
        for line in note.get("summary", []):
            say(f"{name}: {line}")
    save_data_notes(directory, notes)


def check_training_pairs(
    directory: pathlib.Path,
    builder: Any,
    train: DataConfig,
    is_read_only: bool = False,
) -> None:
    """Raises unless the training pairs are those that the run began with.

    Args:
        directory: `pathlib.Path`, folder of the run.
        builder: TFDS builder or `Mixture` of the training pairs.
        train: `DataConfig` of the training pairs.
        is_read_only: bool, True to record nothing in the folder.

    Raises:
        InputError: for other pairs, an unknown split, or a split that is smaller than
            a batch.
    """
    inputs: dict[str, str | int] = {
        "train_images": split_size(builder, train.tfds_split),
        "train_pairs": pairs_fingerprint(builder, train.tfds_split),
    }
    check_inputs(directory, inputs, is_read_only)
    data.check_batch_size(train.global_batch_size, builder, train.tfds_split)


# === Vocabulary ===


def prepare_vocabulary(
    config: ExperimentConfig, builder: Any, directory: str | os.PathLike
) -> list[str]:
    """Loads the vocabulary of a run, or learns it from the training captions.

    The vocabulary is the one in the folder, of the text encoder's weights or of the
    file in the configuration. It is saved in the folder.
    """
    path = pathlib.Path(directory) / "vocabulary.txt"
    if path.exists():
        return load_vocabulary(path)
    text = config.task.model.text_encoder
    if text.weights is not None:
        vocabulary = text_weights(text.weights).vocabulary
    elif text.vocabulary is not None:
        vocabulary = load_vocabulary(text.vocabulary)
    else:
        say("learning the vocabulary from the training captions")
        captions = read_captions(builder, config.task.train_data.tfds_split)
        vocabulary = learn_vocabulary(
            captions, text.vocabulary_size, normalization=text.normalization
        )
    save_vocabulary(vocabulary, path)
    return vocabulary


def check_vocabulary(
    directory: pathlib.Path, vocabulary: Sequence[str], is_read_only: bool = False
) -> None:
    """Raises unless the vocabulary is the one that the run began with."""
    inputs = {"vocabulary": vocabulary_fingerprint(vocabulary)}
    check_inputs(directory, inputs, is_read_only)
    has_model = (directory / "config.json").exists()
    if has_model and newest_step(directory) is not None:
        check_vocabulary_file(directory)


# === Validation pairs ===


def report_validation_pairs(task: TaskConfig, pairs: RetrievalSet) -> None:
    """Prints the split that recall is measured on and its number of pairs."""
    validation = task.validation_data
    captions = sum(len(image_captions) for image_captions in pairs.captions)
    line = (
        f"recall is measured on {len(pairs):,} images with {captions:,} captions "
        f"of {corpus_name(validation)}[{validation.tfds_split}]"
    )
    if validation.pairs is not None and validation.tfds_split != "all":
        if not is_same_table(validation.pairs, task.train_data.pairs):
            line += ". task.validation_data.tfds_split=all measures the whole table"
    say(line)


def report_shared_images(
    task: TaskConfig, train_builder: Any, validation_pairs: RetrievalSet
) -> None:
    """Prints how many validation images are training images too."""
    train = task.train_data
    validation = task.validation_data
    # The splits of one corpus share no image.
    is_one_corpus = corpus_name(train) == corpus_name(validation)
    if is_one_corpus and (train.tfds_split, validation.tfds_split) == ("train", "test"):
        return
    if split_size(train_builder, train.tfds_split) > _MAX_COMPARED:
        return
    train_keys = read_image_keys(train_builder, train.tfds_split)
    shared = sum(key in train_keys for key in validation_pairs.image_keys)
    if shared:
        say(
            f"{shared:,} of the {len(validation_pairs):,} validation images are "
            "training images too, on which recall is too high. Remove them from one "
            "of the two"
        )


# === Batches ===


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """The batches of a run, as a function of the step.

    Attributes:
        config: `ExperimentConfig`.
        builder: TFDS builder or `Mixture` of the training pairs.
        model: `ALIGN`, whose tokenizer and image size are used.
    """

    config: ExperimentConfig
    builder: Any
    model: ALIGN

    @property
    def have_known_order(self) -> bool:
        """False with a data service, whose workers decide on the order."""
        return self.config.task.train_data.data_service is None

    def start_at(self, start_step: int, **pipeline: Any) -> tf.data.Dataset:
        """Returns the endless batches from a step on.

        Args:
            start_step: int, number of the first batch.
            **pipeline: `input_pipeline_id` and `num_input_pipelines` of a worker.
        """
        train = self.config.task.train_data
        return data.training_batches(
            self.builder,
            train.tfds_split,
            self.model.tokenizer,
            image_size=self.model.image_size,
            crop=train.random_crop,
            flip=train.random_flip,
            zoom=train.random_zoom,
            shift=train.random_shift,
            recolor=train.random_recolor,
            data_service=train.data_service,
            start_step=start_step,
            **order_arguments(self.config),
            **pipeline,
        )

    def ids(self, step: int, **pipeline: Any) -> list[str]:
        """Returns the pairs of the batch of a step, with a worker's `pipeline`."""
        return data.batch_ids(
            self.builder,
            self.config.task.train_data.tfds_split,
            step=step,
            **order_arguments(self.config),
            **pipeline,
        )


def order_arguments(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the arguments that decide which pairs are in which batch."""
    train = config.task.train_data
    return {
        "batch_size": train.global_batch_size,
        "seed": config.trainer.seed if train.seed is None else train.seed,
        "shuffle_buffer_size": train.shuffle_buffer_size,
        "cache": train.cache,
        "pair_weighted": train.pair_weighted,
    }

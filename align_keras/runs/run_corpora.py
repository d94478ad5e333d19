"""The training and the validation corpus of a run."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from align_keras.config import DataConfig, TaskConfig
from align_keras.data import check_batch_size
from align_keras.data.stored_pairs import split_size
from align_keras.datasets import build_corpus, open_sources
from align_keras.datasets.fingerprints import pairs_fingerprint
from align_keras.images import crop_size_to_resize_size
from align_keras.models.preset_table import with_preset
from align_keras.runs.run_folder import check_inputs
from align_keras.utils.progress import progress_bar, say


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


def report_notes(notes: Mapping[str, Mapping]) -> None:
    """Prints what the corpora hold and have dropped."""
    for name, note in notes.items():
        for line in note.get("summary", []):
            say(f"{name}: {line}")


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
    check_batch_size(train.global_batch_size, builder, train.tfds_split)

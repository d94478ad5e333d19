"""Training corpus and validation corpus of a run, and their pairs."""

import contextlib
import dataclasses
from typing import Any

from align_keras.config.data_config import DataConfig
from align_keras.config.experiment_config import TaskConfig
from align_keras.config.load import is_same_table
from align_keras.data.stored_pairs import RetrievalSet, read_image_keys, split_size
from align_keras.datasets import open_corpus, open_sources
from align_keras.datasets.mixture import Mixture
from align_keras.images import crop_size_to_resize_size
from align_keras.training.checks import Finding
from align_keras.training.checks.training_pairs import (
    MAX_COMPARED,
    check_shared_images,
)
from align_keras.utils.progress import progress_bar, say


@dataclasses.dataclass(frozen=True)
class RunCorpora:
    """Prepared corpora of a run.

    Attributes:
        train: TFDS builder or `Mixture` of the training pairs.
        validation: TFDS builder or `Mixture` of the validation pairs.
        train_name: name of the training corpus, or the path of its table.
        validation_name: name of the validation corpus, or the path of its table.
        notes: dict from the name of a corpus to the metadata of its builder. It has an
            entry for each member of a `Mixture`.
    """

    train: Any
    validation: Any
    train_name: str
    validation_name: str
    notes: dict[str, dict]


def open_corpora(
    task: TaskConfig, image_size: int, teacher_image_size: int = 0
) -> RunCorpora:
    """Opens the training and the validation corpus, and builds them if necessary.

    The number of pairs of each corpus and of dropped pairs is printed.

    Args:
        task: configuration of both corpora.
        image_size: pixels of the image encoder's input.
        teacher_image_size: pixels of the input of a teacher, which embeds the training
            images, or 0.
    """
    train = prepare_corpus(task.train_data, max(image_size, teacher_image_size))
    validation = prepare_corpus(task.validation_data, image_size)
    train_name = _corpus_name(task.train_data)
    validation_name = _corpus_name(task.validation_data)
    notes = {
        **_corpus_notes(train_name, train),
        **_corpus_notes(validation_name, validation),
    }
    for name, note in notes.items():
        for line in note.get("summary", []):
            say(f"{name}: {line}")
    return RunCorpora(train, validation, train_name, validation_name, notes)


def _corpus_notes(name: str, corpus: Any) -> dict[str, dict]:
    """Returns a dict from the name of a corpus, or of each member, to its metadata."""
    metadata = dict(corpus.info.metadata or {})
    return metadata if isinstance(corpus, Mixture) else {name: metadata}


def prepare_corpus(data_config: DataConfig, image_size: int) -> Any:
    """Opens a corpus, and builds it if necessary.

    Args:
        data_config: configuration of the corpus.
        image_size: pixels of the image encoder's input. Images are stored large enough
            for it.

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
        return open_sources(
            paths,
            weights or None,
            caption_sources=tuple(data_config.caption_sources or ()),
            where=data_config.where,
            **columns,
        )
    with contextlib.ExitStack() as stack:
        count = str(data_config.corpus).count("+") + 1
        name = f"{count} corpora" if count > 2 else data_config.corpus
        bar = progress_bar(f"building {name}", "images", total=0)

        def show_progress(done: int, total: int) -> None:
            # A corpus that is already built shows no progress bar.
            if not bar.total:
                stack.enter_context(bar)
            # The total of a mixture grows when its next corpus begins.
            bar.total = total
            bar.advance(done - bar.done)

        return open_corpus(
            str(data_config.corpus),  # `check_corpora` refuses None.
            data_dir=data_config.tfds_data_dir,
            pairs=data_config.pairs,
            caption_sources=tuple(data_config.caption_sources or ()),
            encoding=data_config.encoding,
            split_by=data_config.split_by,
            where=data_config.where,
            repeats=data_config.corpus_repeats,
            progress=show_progress,
            **columns,
        )


def _corpus_name(data_config: DataConfig) -> str:
    """Returns the name or the path of the pairs that `data_config` describes."""
    if data_config.source is not None:
        return ", ".join(source.path for source in data_config.source)
    return str(data_config.pairs or data_config.corpus)


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

"""Vocabulary of a run."""

import os
import pathlib
from typing import Any

from align_keras.config import ExperimentConfig
from align_keras.data.stored_pairs import read_captions
from align_keras.models.warm_start import text_weights
from align_keras.presets.layout import VOCABULARY_ASSET
from align_keras.text import (
    learn_vocabulary,
    load_vocabulary,
    save_vocabulary,
)
from align_keras.utils.progress import say


def prepare_vocabulary(
    config: ExperimentConfig, builder: Any, directory: str | os.PathLike
) -> list[str]:
    """Loads the vocabulary of a run, or learns it from the training captions.

    The first of these vocabularies that exists is used: the vocabulary in the folder,
    the vocabulary of the text encoder's weights, and the file in the configuration. The
    vocabulary is then saved in the folder.
    """
    path = pathlib.Path(directory, VOCABULARY_ASSET)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_vocabulary(vocabulary, path)
    return vocabulary

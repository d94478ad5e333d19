"""TFDS builders of the corpora.

Importing this module registers the builders with TFDS.

>>> import align_keras.datasets
>>> import tensorflow_datasets as tfds
>>> builder = tfds.builder("stamps/de")
>>> builder.name, builder.builder_config.name
('stamps', 'de')
"""

from align_keras.datasets.build import CORPUS_NAMES, open_corpus
from align_keras.datasets.clipart import Clipart
from align_keras.datasets.emoji import Emoji
from align_keras.datasets.icons import Icons
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.source_pairs import open_sources
from align_keras.datasets.stamps import Stamps
from align_keras.datasets.user_pairs import UserPairs

__all__ = [
    "Clipart",
    "Emoji",
    "Icons",
    "Mixture",
    "Stamps",
    "UserPairs",
    "open_corpus",
    "open_sources",
]

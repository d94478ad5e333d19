"""Finished corpora as TFDS builders, and readers of benchmarks.

`align_keras.corpus` builds corpora from raw sources, and `align_keras.data` turns their
examples into batches.

Importing this module registers the builders with TFDS, if it is installed.

>>> import align_keras.datasets
>>> import tensorflow_datasets as tfds
>>> builder = tfds.builder("stamps/de")
>>> builder.name, builder.builder_config.name
('stamps', 'de')
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "CORPUS_NAMES": "align_keras.datasets.named_corpora",
    "GroupedPairs": "align_keras.datasets.grouped_pairs",
    "Icons": "align_keras.datasets.icons",
    "Mixture": "align_keras.datasets.mixture",
    "PreparedPairs": "align_keras.datasets.prepared_pairs",
    "SelectedPairs": "align_keras.datasets.selected_pairs",
    "Stamps": "align_keras.datasets.stamps",
    "UserPairs": "align_keras.datasets.user_pairs",
    "open_corpus": "align_keras.datasets.named_corpora",
    "open_sources": "align_keras.datasets.source_pairs",
}
__all__ = [
    "GroupedPairs",
    "Icons",
    "Mixture",
    "PreparedPairs",
    "SelectedPairs",
    "Stamps",
    "UserPairs",
    "open_corpus",
    "open_sources",
]


if TYPE_CHECKING:
    from align_keras.datasets.grouped_pairs import GroupedPairs as GroupedPairs
    from align_keras.datasets.icons import Icons as Icons
    from align_keras.datasets.mixture import Mixture as Mixture
    from align_keras.datasets.named_corpora import CORPUS_NAMES as CORPUS_NAMES
    from align_keras.datasets.named_corpora import open_corpus as open_corpus
    from align_keras.datasets.prepared_pairs import PreparedPairs as PreparedPairs
    from align_keras.datasets.selected_pairs import SelectedPairs as SelectedPairs
    from align_keras.datasets.source_pairs import open_sources as open_sources
    from align_keras.datasets.stamps import Stamps as Stamps
    from align_keras.datasets.user_pairs import UserPairs as UserPairs
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)


# The readers of `align_keras.datasets.benchmarks` also work without TFDS.
if importlib.util.find_spec("tensorflow_datasets") is not None:
    for _module in dict.fromkeys(_PUBLIC.values()):
        importlib.import_module(_module)

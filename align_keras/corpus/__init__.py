"""Clean image-caption pairs from raw sources, with counts of the dropped pairs.

`align_keras.datasets` opens finished corpora and benchmarks, and `align_keras.data`
turns their examples into batches.
"""

from align_keras.corpus.filters.filter_rules import Thresholds
from align_keras.corpus.filters.pairs import Pair, filter_pairs
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.sources.uid_subset import write_uid_subset

__all__ = [
    "Pair",
    "Thresholds",
    "extract_pairs",
    "filter_pairs",
    "write_uid_subset",
]

"""Clean image-caption pairs from raw sources, with counts of the dropped pairs."""

from align_keras.corpus.filters.filter_rules import Thresholds
from align_keras.corpus.filters.pairs import Pair, filter_pairs
from align_keras.corpus.html_pairs import extract_pairs

__all__ = [
    "Pair",
    "Thresholds",
    "extract_pairs",
    "filter_pairs",
]

"""From raw sources to clean pairs: images, captions, and what was dropped."""

from align_keras.corpus.filters.pairs import Pair, filter_pairs
from align_keras.corpus.filters.rules import Thresholds
from align_keras.corpus.html_pairs import extract_pairs

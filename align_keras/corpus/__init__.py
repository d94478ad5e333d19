"""From raw sources to clean pairs: pictures, captions, and what was dropped."""

from align_keras.corpus.filter_pairs import Pair, filter_pairs
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.thresholds import Thresholds

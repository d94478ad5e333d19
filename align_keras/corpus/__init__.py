"""From raw sources to clean pairs: pictures, captions, and what was dropped."""

from align_keras.corpus.html_pairs import extract_pairs

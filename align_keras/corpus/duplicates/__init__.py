"""Copies among images: by equal pixels, by perceptual hashes, by embeddings."""

from align_keras.corpus.duplicates.near_duplicates import ImageSet, find_duplicates

"""Detection of duplicate images by pixels, perceptual hashes or embeddings."""

from align_keras.corpus.duplicates.near_duplicates import ImageSet, find_duplicates

"""Recall of the validation pairs of `fit`."""

import numpy as np

from align_keras.evaluation.recall_at_k import chance_recall_at_k, recall_at_k

# Pairs, about as many as images in the test set of COCO. The embeddings of larger
# validation sets would need more memory in each epoch.
MAX_PAIRS = 5_000
RECALL = "recall_at_10"
CHANCE = "chance_recall_at_10"


class ValidationPairs:
    """Embeddings of the first `MAX_PAIRS` pairs of an evaluation."""

    def __init__(self) -> None:
        self._images: list[np.ndarray] = []
        self._texts: list[np.ndarray] = []
        self._captions: list[bytes] = []

    def add(self, images: np.ndarray, texts: np.ndarray, tokens: np.ndarray) -> None:
        """Adds a batch.

        Args:
            images: float array (n, d), embeddings.
            texts: float array (n, d), embeddings.
            tokens: int array (n, length), token ids, with -1 for padding.
        """
        rows = MAX_PAIRS - len(self._captions)
        if rows > 0:
            self._images.append(images[:rows])
            self._texts.append(texts[:rows])
            self._captions += [row[row >= 0].tobytes() for row in tokens[:rows]]

    def recall(self) -> dict[str, float]:
        """Returns the recall@10 from captions to images and that of a random ranking.

        The images of equal captions are all correct.
        """
        if not self._captions:
            return {}
        images, texts = np.concatenate(self._images), np.concatenate(self._texts)
        _, groups = np.unique(self._captions, return_inverse=True)
        rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
        positives = [rows[group] for group in groups]
        chance = chance_recall_at_k(positives, len(images), (10,))[10]
        if not np.isfinite(images).all() or not np.isfinite(texts).all():
            return {RECALL: float("nan"), CHANCE: chance}
        recall = recall_at_k(texts, images, positives, (10,))[10]
        return {RECALL: recall, CHANCE: chance}

"""Embeddings that are truncated to their first components."""

import numpy as np


def truncate_embeddings(embeddings: np.ndarray, dimensions: int) -> np.ndarray:
    """Returns the first components of embeddings, scaled to unit length.

    Args:
        embeddings: float array (n, d).
        dimensions: in [1, d], number of components.

    Returns:
        Float array (n, dimensions) of the same dtype. Rows of zeros stay zeros.

    Example:

    >>> truncate_embeddings(np.array([[3.0, 4.0, 12.0]]), 2)
    array([[0.6, 0.8]])
    """
    first = embeddings[:, :dimensions]
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    return first / np.where(lengths > 0, lengths, 1)

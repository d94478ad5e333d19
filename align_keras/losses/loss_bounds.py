"""Bounds of losses that depend only on the batch, without embeddings."""

import numpy as np


def chance_cross_entropy(pairs: int) -> float:
    """Returns the cross-entropy of equal probabilities for all pairs, in nats."""
    return float(np.log(pairs))


def lowest_cross_entropy(groups: np.ndarray, label_smoothing: float) -> float:
    """Returns the lowest mean cross-entropy of one direction, in nats.

    Captions of a group have equal token ids, so their embeddings and logits are equal.
    A row therefore divides the probability of its group equally among the group. The
    bound is the same for one-hot targets and for targets that are shared in a group.
    It is exact for free logits. Embeddings reach it if they have enough dimensions.

    Args:
        groups: int array (n,), pairs with equal captions have equal numbers.
        label_smoothing: float in [0, 1], as in `ContrastiveLoss`.

    Example:

    >>> round(lowest_cross_entropy(np.array([0, 0, 1, 1]), 0.0), 4)  # log(2)
    0.6931
    """
    pairs = len(groups)
    sizes = group_sizes(groups)
    smooth = label_smoothing / pairs
    positive = (1.0 - label_smoothing) / sizes + smooth
    entropy = -sizes * _times_log(positive)
    entropy -= (pairs - sizes) * _times_log(np.full(pairs, smooth))
    return float(entropy.mean())


def chance_sigmoid_loss(pairs: int) -> float:
    """Returns the lowest sigmoid loss of an image if all logits are equal, in nats."""
    if pairs == 1:
        return 0.0
    return float(np.log(pairs) + (pairs - 1) * np.log(pairs / (pairs - 1)))


def lowest_sigmoid_loss(groups: np.ndarray) -> float:
    """Returns the lowest sigmoid loss if equal captions are negatives, in nats.

    The logits of g equal captions are equal, and one of g targets is positive.

    Args:
        groups: int array (n,), pairs with equal captions have equal numbers.
    """
    return float(np.mean([chance_sigmoid_loss(int(g)) for g in group_sizes(groups)]))


def group_sizes(groups: np.ndarray) -> np.ndarray:
    """Returns the number of pairs in the group of each pair, an int array (n,)."""
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[numbers.reshape(-1)]


def _times_log(probabilities: np.ndarray) -> np.ndarray:
    """Returns p · log(p), which is 0 at p = 0."""
    return probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))

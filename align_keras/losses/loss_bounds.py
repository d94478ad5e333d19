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


def lowest_cross_entropy_at(
    pairs: int, temperature: float, label_smoothing: float
) -> float:
    """Returns the lowest mean cross-entropy of one direction at a temperature, in nats.

    The best embeddings of n pairs are the corners of a simplex: The cosine of a pair is
    1, and that of other combinations is -1 / (n - 1).

    Args:
        pairs: int ≥ 1, number of pairs n, whose captions are different.
        temperature: float > 0, divisor of the cosines.
        label_smoothing: float in [0, 1], as in `ContrastiveLoss`.

    Example:

    >>> round(lowest_cross_entropy_at(2, 1.0, 0.0), 4)  # log(1 + exp(-2))
    0.1269
    """
    if pairs == 1:
        return 0.0
    # Difference between the logits of a pair and those of other combinations.
    margin = (1.0 + 1.0 / (pairs - 1)) / temperature
    smooth = label_smoothing / pairs
    if smooth > 0:
        # A larger difference would exceed that of the smoothed targets.
        margin = min(margin, float(np.log((1.0 - label_smoothing + smooth) / smooth)))
    negatives = (pairs - 1) * np.exp(-margin)
    return float(np.log1p(negatives) + (pairs - 1) * smooth * margin)


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


def lowest_sigmoid_loss_at(pairs: int, temperature: float, bias: float) -> float:
    """Returns the lowest sigmoid loss at a temperature, in nats.

    The loss is convex in the cosines and doesn't depend on the order of the pairs. Some
    best embeddings therefore have equal cosines for all pairs, and equal cosines for
    all other combinations.

    Args:
        pairs: int ≥ 1, number of pairs n, whose captions are different.
        temperature: float > 0, divisor of the cosines.
        bias: float that is added to the logits.
    """
    positives = np.linspace(-1.0, 1.0, 201)
    # The lowest cosines that unit vectors allow next to these cosines of the pairs.
    negatives = ((pairs - 2) * positives - pairs) / (2 * max(pairs - 1, 1))
    losses = np.logaddexp(0.0, -positives / temperature - bias)
    losses += (pairs - 1) * np.logaddexp(0.0, negatives / temperature + bias)
    return float(losses.min())


def group_sizes(groups: np.ndarray) -> np.ndarray:
    """Returns the number of pairs in the group of each pair, an int array (n,)."""
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[numbers.reshape(-1)]


def _times_log(probabilities: np.ndarray) -> np.ndarray:
    """Returns p · log(p), which is 0 at p = 0."""
    return probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))

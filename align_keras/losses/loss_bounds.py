"""Bounds of losses that depend only on the batch, without embeddings.

`groups` is an int array (n,) or (n, 2) for the n pairs of a batch. Pairs with equal
captions have equal numbers in the first column, and pairs with equal images have equal
numbers in the second column.
"""

from collections.abc import Iterator

import numpy as np

# Number of pairs of an image and a caption that are compared at once.
COMPARED_AT_ONCE = 1 << 22


def chance_cross_entropy(pairs: int) -> float:
    """Returns the cross-entropy of equal probabilities for all pairs, in nats."""
    return float(np.log(pairs))


def lowest_cross_entropy(groups: np.ndarray, label_smoothing: float) -> float:
    """Returns the lowest mean cross-entropy of one direction, in nats.

    The captions of a group have equal token ids, so their embeddings and logits are
    equal. A row therefore divides the probability of a group equally among the group.
    The bound is the same for one-hot targets and for targets that are shared in a
    group. It is exact for free logits. Embeddings reach it if they have enough
    dimensions.

    Args:
        groups: int array (n,) of the captions.
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


def lowest_shared_cross_entropy(
    groups: np.ndarray, share_equal_captions: bool, label_smoothing: float
) -> tuple[float, float]:
    """Returns the lowest cross-entropies if the captions of an image are positives.

    The logits of equal captions are equal, as in `lowest_cross_entropy`. Equal images
    may have different logits, because training crops them at random.

    Args:
        groups: int array (n, 2).
        share_equal_captions: bool, equal captions are positives too.
        label_smoothing: float in [0, 1], as in `ContrastiveLoss`.

    Returns:
        Bounds of the image-to-text and of the text-to-image direction, in nats. Each
        bound is exact for free logits. Their sum is a lower bound of the sum of the
        losses, because both directions have the same logits.

    Example:

    >>> groups = np.array([[0, 0], [1, 0], [2, 1]])  # an image has two captions
    >>> bound, _ = lowest_shared_cross_entropy(groups, False, 0.0)
    >>> round(bound, 4)  # 2 / 3 · log(2)
    0.4621
    """
    pairs = len(groups)
    positives = positive_counts(groups, share_equal_captions)
    sizes, order = _caption_order(groups)
    starts = np.cumsum(sizes) - sizes
    smooth = label_smoothing / pairs
    totals = np.zeros(2)
    for rows, matches in _matches(groups, share_equal_captions):
        matches = matches[:, order]
        row_targets = matches / positives[rows, None]
        column_targets = matches / positives[order]
        # In the second direction, the rows of equal captions have equal logits.
        for direction, targets in enumerate((row_targets, column_targets)):
            sums = np.add.reduceat(targets, starts, axis=1)
            sums = (1.0 - label_smoothing) * sums + smooth * sizes
            totals[direction] -= (sizes * _times_log(sums / sizes)).sum()
    row_bound, column_bound = totals / pairs
    return float(row_bound), float(column_bound)


def chance_sigmoid_loss(
    pairs: int, groups: np.ndarray | None = None, share_equal_captions: bool = False
) -> float:
    """Returns the lowest sigmoid loss of an image if all logits are equal, in nats.

    Args:
        pairs: int, number of pairs of the batch.
        groups: int array (n,) or (n, 2) if equal images are positives, or None if each
            image has one positive.
        share_equal_captions: bool, equal captions are positives.
    """
    positives = np.ones(1)
    if groups is not None:
        positives = positive_counts(groups, share_equal_captions)
    return float(_lowest_binary_loss(positives.mean(), pairs))


def lowest_sigmoid_loss(
    groups: np.ndarray, share_equal_captions: bool = False
) -> float:
    """Returns the lowest sigmoid loss of an image, in nats.

    The logits of equal captions are equal. The loss is above zero if only some of them
    are positives of an image.

    Args:
        groups: int array (n,), or (n, 2) if equal images are positives.
        share_equal_captions: bool, equal captions are positives.
    """
    if groups.ndim == 1:
        if share_equal_captions:
            return 0.0
        return float(_lowest_binary_loss(np.ones(1), group_sizes(groups)).mean())
    sizes, order = _caption_order(groups)
    starts = np.cumsum(sizes) - sizes
    total = 0.0
    for _, matches in _matches(groups, share_equal_captions):
        positives = np.add.reduceat(matches[:, order], starts, axis=1, dtype="float64")
        total += float(_lowest_binary_loss(positives, sizes).sum())
    return total / len(groups)


def caption_groups(groups: np.ndarray) -> np.ndarray:
    """Returns the column of the captions, int (n,)."""
    return groups if groups.ndim == 1 else groups[:, 0]


def positive_counts(groups: np.ndarray, share_equal_captions: bool) -> np.ndarray:
    """Returns the number of positives of each pair, including itself, int (n,).

    Args:
        groups: int array (n,), or (n, 2) if equal images are positives.
        share_equal_captions: bool, equal captions are positives.
    """
    counts = np.ones(len(groups), int)
    if share_equal_captions:
        counts = group_sizes(caption_groups(groups))
    if groups.ndim == 1:
        return counts
    images = group_sizes(groups[:, 1])
    if not share_equal_captions:
        return images
    _, numbers = np.unique(groups, axis=0, return_inverse=True)
    # Pairs that are equal in both columns were counted twice.
    return counts + images - group_sizes(numbers.reshape(-1))


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


def _caption_order(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sizes of the caption groups, and an order that puts them together."""
    captions = caption_groups(groups)
    _, sizes = np.unique(captions, return_counts=True)
    return sizes, np.argsort(captions, kind="stable")


def _matches(
    groups: np.ndarray, share_equal_captions: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields some rows and the bool array (rows, n) of their positives.

    Args:
        groups: int array (n, 2).
        share_equal_captions: bool, equal captions are positives too.
    """
    captions, images = groups.T
    step = max(1, COMPARED_AT_ONCE // len(groups))
    for start in range(0, len(groups), step):
        rows = slice(start, start + step)
        matches = images[rows, None] == images
        if share_equal_captions:
            matches |= captions[rows, None] == captions
        yield rows, matches


def _lowest_binary_loss(
    positives: np.ndarray | float, count: np.ndarray | int
) -> np.ndarray:
    """Returns the lowest sum of the losses of equal logits, of which some are positive.

    Args:
        positives: number of positives, at most `count`.
        count: number of logits.
    """
    share = np.asarray(positives / np.asarray(count))
    return -count * (_times_log(share) + _times_log(1.0 - share))


def _times_log(probabilities: np.ndarray) -> np.ndarray:
    """Returns p · log(p), which is 0 at p = 0."""
    return probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))

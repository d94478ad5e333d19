"""Probability that an image of a search is right, from its score among all scores."""

import numpy as np

# Weights of the logistic regression in `relevance`. `tools/benchmarks/bench_marks.py`
# fitted it with align_small_en on six sources of images that are not training images.
# The page of `align-keras export web` reads the weights from its `model.json`.
RELEVANCE_WEIGHTS = {
    "height": 1.77,
    "crowd": -0.93,
    "bias": -0.98,
    # Factor of the heights in the crowd. 1, 2 and 2.5 fit the sources less well.
    "steepness": 1.5,
    # The heights of few scores are small, even if an image is right.
    "fewest_images": 20,
}


def heights_and_crowd(
    scores: np.ndarray, sample_scores: np.ndarray, count: int
) -> tuple[np.ndarray, float]:
    """Returns the two values from which `relevance` estimates probabilities.

    A cosine similarity has no absolute scale, so both values compare scores with those
    of the index. The height of a score is its number of standard deviations above the
    mean. The crowd is the logarithm of the sum of exp(1.5 · height) over the images of
    the index. It grows with the number of images that have a high score.

    Args:
        scores: float (k,), scores of the hits.
        sample_scores: float (n,), scores of images from all parts of the index.
        count: number of images in the index.

    Returns:
        float (k,), the heights, and float, the crowd.

    >>> heights, _ = heights_and_crowd(np.array([0.6]), np.array([0.0, 0.1, 0.2]), 3)
    >>> heights.round(2)
    array([6.12])
    """
    mean = float(sample_scores.mean())
    deviation = max(float(sample_scores.std()), 1e-6)
    sample_heights = (np.asarray(sample_scores, float) - mean) / deviation
    total = count * np.exp(RELEVANCE_WEIGHTS["steepness"] * sample_heights).mean()
    return (np.asarray(scores, float) - mean) / deviation, float(np.log(total))


def relevance(
    scores: np.ndarray, sample_scores: np.ndarray, count: int
) -> list[float] | list[None]:
    """Estimates for each score the probability that the image is right.

    The logit of the probability is a weighted sum of the height and the crowd (see
    `heights_and_crowd`), so a higher score never has a lower probability. The estimate
    applies to words that describe one image or a few. If the words describe many
    images, none of them stands out and the estimates are too low.

    The arguments are those of `heights_and_crowd`.

    Returns:
        list of float from 0.01 to 0.99. None for each score if `count` is less than 20,
        because too few scores exist to compare with.

    >>> relevance(np.array([0.6, 0.5, 0.1]), np.array([0.0, 0.1, 0.2]), 100)
    [0.99, 0.93, 0.01]
    """
    weights = RELEVANCE_WEIGHTS
    if count < weights["fewest_images"]:
        return [None] * len(scores)
    heights, crowd = heights_and_crowd(scores, sample_scores, count)
    logits = weights["height"] * heights + weights["crowd"] * crowd + weights["bias"]
    # Probabilities of 1% and 99%. More extreme ones were not measured.
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -4.6, 4.6)))
    return [round(float(value), 2) for value in probabilities]

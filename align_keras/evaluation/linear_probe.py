"""Logistic regression on the embeddings of a frozen image encoder."""

import numpy as np

from align_keras.evaluation.classification import (
    Classification,
    as_labels,
    classification_metrics,
)
from align_keras.evaluation.logistic_regression import fit_logistic_regression
from align_keras.evaluation.zero_shot import zero_shot_classification
from align_keras.utils.errors import InputError

# What is tried, from strong to weak, for features of unit length.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# Of each class, one item in so many chooses among them.
_HELD_OUT = 5
_BLOCK = 8192


def probe(features, labels, test_features, test_labels, classes, penalties=PENALTIES):
    """Fits logistic regression with the best of several penalties, and judges it.

    The best has the highest top-1 on a fifth of the training items, which the fit
    doesn't see; of equal ones it is the strongest. Of each class's items, in their
    order, that fifth is the fifth, the tenth and so on. Then all training items
    are fitted.

    Args:
        features: real array (items, dimension), finite; may be memory-mapped.
        labels: integers (items,) in [0, classes).
        test_features: real array (test items, dimension), finite.
        test_labels: integers (test items,) in [0, classes).
        classes: int >= 2.
        penalties: floats > 0, from strong to weak; as `fit_logistic_regression`.

    Returns:
        `Classification` of the test items, and list of pairs of str and float:
        `linear_probe/penalty`, the `linear_probe/held_out_top_1` that it reached,
        and `linear_probe/iterations` of the last fit: 1000 if it didn't converge.

    Raises:
        InputError: for shapes that don't fit, labels that no class has, penalties
            that aren't positive, and where no class has five items.

    Example:
    >>> labels = np.arange(60) % 3
    >>> features = np.random.default_rng(0).normal(np.eye(3)[labels], 0.1)
    >>> found, chosen = probe(features, labels, np.eye(3), [0, 1, 2], classes=3)
    >>> found.predictions.tolist(), dict(chosen)["linear_probe/held_out_top_1"]
    ([0, 1, 2], 1.0)
    """
    features, test_features = _checked(features, test_features, classes, penalties)
    labels = as_labels("labels", labels, len(features), classes)
    test_labels = as_labels("test_labels", test_labels, len(test_features), classes)
    held_out = _every_fifth_of_its_class(labels)
    if not held_out.any():
        raise InputError(
            "`labels` must have a class with five items, one of which chooses the "
            f"penalty, got {len(labels)} items in {len(np.unique(labels))} classes; "
            "give more training pictures."
        )
    train, train_labels = _Chosen(features, ~held_out), labels[~held_out]
    judges, judges_labels = _Chosen(features, held_out), labels[held_out]
    weights, best, chosen = None, -1.0, None
    for penalty in penalties:
        weights = fit_logistic_regression(
            train, train_labels, classes, penalty, weights
        ).weights
        found = _classify(judges, judges_labels, weights)
        top_1 = float(np.mean(found.ranks == 0))
        if top_1 > best:
            best, chosen = top_1, penalty
    fit = fit_logistic_regression(features, labels, classes, chosen, weights)
    return _classify(test_features, test_labels, fit.weights), [
        ("linear_probe/penalty", chosen),
        ("linear_probe/held_out_top_1", best),
        ("linear_probe/iterations", float(fit.iterations)),
    ]


def _checked(features, test_features, classes, penalties):
    features, test_features = np.asarray(features), np.asarray(test_features)
    if features.ndim != 2 or test_features.shape[1:] != features.shape[1:]:
        raise InputError(
            "`features` and `test_features` must be matrices of one dimension, got "
            f"shapes {features.shape} and {test_features.shape}."
        )
    if classes < 2 or not len(penalties) or min(penalties) <= 0:
        raise InputError(
            "`classes` must be 2 or more and `penalties` above 0, got "
            f"{classes} and {penalties}."
        )
    return features, test_features


class _Chosen:
    """Some rows of an array, of which a block is copied where it is taken."""

    def __init__(self, features, chosen):
        self._features, self._rows = features, np.flatnonzero(chosen)
        self.shape = (len(self._rows), features.shape[1])

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, rows):
        return self._features[self._rows[rows]]


def _every_fifth_of_its_class(labels):
    """Whether each item is the fifth, tenth and so on of its class: bool (items,)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.empty(len(labels), bool)
    chosen[order] = (np.arange(len(labels)) - firsts) % _HELD_OUT == _HELD_OUT - 1
    return chosen


def _classify(features, labels, weights):
    """The classes of the largest logits, with the ties of zero-shot's rule."""
    parts = []
    for start in range(0, len(features), _BLOCK):
        block = np.asarray(features[start : start + _BLOCK], float)
        # The intercepts are the weights of a feature that is always 1.
        block = np.hstack([block, np.ones((len(block), 1))])
        own = labels[start : start + _BLOCK]
        parts.append(zero_shot_classification(block, weights.T, own))
    return Classification(*map(np.concatenate, zip(*parts, strict=True)))


def evaluate_linear_probe(
    encode_images, train_images, train_labels, images, labels, classes
):
    """Measures logistic regression on the frozen image encoder's embeddings.

    Args:
        encode_images: function from pictures to a real array (pictures, d).
        train_images: the pictures to learn from, as `encode_images` takes them.
        train_labels: integers (training pictures,) in [0, classes).
        images: the pictures to judge by.
        labels: integers (pictures,) in [0, classes).
        classes: int >= 2.

    Yields:
        Pairs of str and float: `linear_probe/top_1`, `linear_probe/top_5`
        (of more than five classes), `linear_probe/mean_per_class`, and what
        `probe` chose.

    Raises:
        InputError: as `probe`.

    References:
        Jia et al. 2021, section 5.3 evaluates the frozen image encoder with a
        classification head, by SGD; this is the same head at its optimum.

    Example:
    >>> labels = np.arange(60) % 3
    >>> pictures = np.random.default_rng(0).normal(np.eye(3)[labels], 0.1)
    >>> metrics = dict(evaluate_linear_probe(
    ...     lambda images: images, pictures, labels, np.eye(3), [0, 1, 2], classes=3
    ... ))
    >>> metrics["linear_probe/top_1"]
    1.0
    """
    found, chosen = probe(
        encode_images(train_images),
        train_labels,
        encode_images(images),
        labels,
        classes,
    )
    yield from classification_metrics("linear_probe", found, labels, classes)
    yield from chosen

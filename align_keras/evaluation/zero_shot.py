"""Zero-shot classification: the class whose name, in a prompt, is nearest."""

import numpy as np

from align_keras.evaluation.classification import (
    Classification,
    as_labels,
    classification_metrics,
)
from align_keras.evaluation.nearest_neighbors import nearest_neighbors
from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.utils.errors import InputError


def class_embeddings(encode_texts, class_names, templates):
    """Embeds each class as the mean of its prompts, brought back to unit length.

    Args:
        encode_texts: function from a list of str to a real array (n, dimension).
        class_names: sequence of str.
        templates: sequence of str with a `{}` for the name.

    Returns:
        float64 array (classes, dimension), rows of unit length.

    Raises:
        InputError: without classes or templates, for a template without `{}`,
            and where the prompts of a class cancel out.

    References:
        Jia et al. 2021, section 5.2: the ensemble by mean of the embeddings.

    Example:
    >>> encode = {"a dog": [1.0, 0.0], "the dog": [0.0, 1.0]}
    >>> class_embeddings(
    ...     lambda texts: np.array([encode[text] for text in texts]),
    ...     ["dog"],
    ...     ["a {}", "the {}"],
    ... ).round(4).tolist()
    [[0.7071, 0.7071]]
    """
    class_names, templates = list(class_names), list(templates)
    wrong = [template for template in templates if "{}" not in template]
    if not class_names or not templates or wrong:
        raise InputError(
            "`class_names` must hold a name and `templates` a str with {} for it, got "
            f"{len(class_names)} names and {len(templates)} templates"
            + (f", one of them {wrong[0]!r} without {{}}." if wrong else ".")
        )
    # Not `format`: a name or a template may hold other braces.
    prompts = [
        template.replace("{}", name) for name in class_names for template in templates
    ]
    embeddings = np.asarray(encode_texts(prompts), float)
    embeddings = _unit_rows(embeddings, prompts)
    # (classes · templates, d) → (classes, templates, d) → (classes, d)
    means = embeddings.reshape(len(class_names), len(templates), -1).mean(axis=1)
    return _unit_rows(means, class_names)


def _unit_rows(rows, names):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(lengths > 1e-12) | ~np.isfinite(lengths))
    if len(wrong):
        raise InputError(
            "`encode_texts` must give finite embeddings that don't cancel out, got "
            f"length {lengths[wrong[0], 0]} for {names[wrong[0]]!r}; look for a "
            "diverged model."
        )
    return rows / lengths


def zero_shot_classification(
    image_embeddings, class_embeddings, labels, block_size=4096
):
    """Classifies pictures by the nearest class, with exact scores.

    Args:
        image_embeddings: real array (pictures, dimension), finite; may be
            memory-mapped.
        class_embeddings: real array (classes, dimension), finite.
        labels: integers (pictures,), the right rows of `class_embeddings`.
        block_size: int >= 1, pictures and classes scored at once; the result
            doesn't depend on it.

    Returns:
        `Classification`.

    Raises:
        InputError: for shapes that don't fit, embeddings that aren't finite and
            labels outside the classes.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> found = zero_shot_classification(np.eye(2), np.eye(2), [0, 0])
    >>> found.ranks.tolist(), found.predictions.tolist()
    ([0, 1], [0, 1])
    """
    labels = as_labels("labels", labels, len(image_embeddings), len(class_embeddings))
    ranks = rank_of_best_positive(
        image_embeddings, class_embeddings, labels[:, None], block_size
    )
    nearest, _ = nearest_neighbors(
        image_embeddings, class_embeddings, min(2, len(class_embeddings)), block_size
    )
    # Where the right class ties with a wrong one, the wrong one was found.
    tied = (nearest[:, 0] == labels) & (ranks > 0)
    return Classification(ranks, np.where(tied, nearest[:, -1], nearest[:, 0]))


def evaluate_zero_shot(
    encode_images, encode_texts, images, labels, class_names, templates
):
    """Measures zero-shot classification.

    Args:
        encode_images: function from the pictures to a real array (pictures, d).
        encode_texts: function from a list of str to a real array (n, d).
        images: the pictures, as `encode_images` takes them.
        labels: integers (pictures,), rows of `class_names`.
        class_names: sequence of str.
        templates: sequence of str with a `{}` for the name.

    Yields:
        Pairs of str and float: `zero_shot/top_1`, `zero_shot/top_5` (of
        more than five classes) and `zero_shot/mean_per_class`.

    Raises:
        InputError: as `class_embeddings` and `zero_shot_classification`.

    References:
        Jia et al. 2021, section 5.2 and table 4.

    Example:
    >>> vectors = {"a cat": [1.0, 0.0], "a dog": [0.0, 1.0]}
    >>> dict(evaluate_zero_shot(
    ...     np.asarray, lambda texts: np.array([vectors[text] for text in texts]),
    ...     [[1.0, 0.1], [0.2, 1.0]], [0, 1], ["cat", "dog"], ["a {}"],
    ... ))["zero_shot/top_1"]
    1.0
    """
    classes = class_embeddings(encode_texts, class_names, templates)
    found = zero_shot_classification(encode_images(images), classes, labels)
    yield from classification_metrics("zero_shot", found, labels, len(classes))

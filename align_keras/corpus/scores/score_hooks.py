"""Score columns that functions of the user compute."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError


def call_score_hook(
    name: str, function: Callable, images: Sequence[bytes], captions: Sequence[str]
) -> list[float]:
    """Computes a column for some pairs by a function of the user.

    Args:
        name: name of the column.
        function: callable that takes a list of encoded images and a list of their
            captions, and returns a list of float.
        images: sequence of bytes, the encoded image of each pair.
        captions: the caption of each pair.

    Returns:
        list of float, the score of each pair.

    Raises:
        InputError: if the function fails, or does not return one finite number for each
            pair.

    Example:

    >>> def count_words(images, captions):
    ...     return [len(caption.split()) for caption in captions]
    >>> call_score_hook("words", count_words, [b"...", b"..."], ["a cat", "my old cat"])
    [2.0, 3.0]
    """
    try:
        scores = function(list(images), list(captions))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"score.hooks.{name} must be a function of images and captions that raises "
            f"no error. Received: {reason}. Correct the function."
        ) from error
    if isinstance(scores, np.ndarray):
        scores = scores.tolist()
    problem = _problem(scores, len(images))
    if problem:
        raise InputError(
            f"score.hooks.{name} must return a list with one finite float for each "
            f"pair. Received: {problem}. Correct the function."
        )
    return [float(score) for score in scores]


def _problem(scores: Any, count: int) -> str | None:
    """Describes why the result of a hook isn't a list of `count` finite numbers."""
    if not isinstance(scores, list | tuple):
        return f"{type(scores).__name__}"
    if len(scores) != count:
        return f"{len(scores)} values for {count} pairs"
    for position, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, numbers.Real):
            return f"{type(score).__name__} at position {position}"
        if not math.isfinite(score):
            return f"{float(score)} at position {position}"
    return None

"""Score columns that functions of the user compute."""

from collections.abc import Callable, Sequence

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
        scores = np.asarray(function(list(images), list(captions)), np.float64)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"score.hooks.{name} must be a function of images and captions that "
            f"returns numbers. Received: {reason}. Correct the function."
        ) from error
    if scores.shape != (len(images),) or not np.isfinite(scores).all():
        raise InputError(
            f"score.hooks.{name} must return a list with one finite float for each "
            f"pair. Received: {len(images)} pairs and {scores!r:.200}. Correct the "
            "function."
        )
    return scores.tolist()

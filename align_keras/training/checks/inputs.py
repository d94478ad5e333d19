"""Checks of the images and captions of a batch, and of the wait for input.

Each check is a function of measured values that returns a `Finding` or None.
"""

import numpy as np

from align_keras.training.checks.finding import Finding

# Fraction of the tokens of a batch.
MAX_UNKNOWN_FRACTION = 0.5
# Gray levels of 255. Photos differ by about 60 from each other, and icons by about 20.
MIN_PIXEL_DEVIATION = 2.0
# Number of images. Fewer images may be similar by chance.
MIN_IMAGES = 4
# Fraction of the time of the steps.
MAX_WAIT_FRACTION = 0.5
# Seconds. A shorter wait isn't worth a change.
MIN_WAIT_SECONDS = 1.0


def check_unknown_tokens(
    token_ids: np.ndarray, unknown: int, special: tuple[int, ...], step: int
) -> Finding | None:
    """Checks that the vocabulary has the words of the captions.

    Args:
        token_ids: int array (n, length) of captions.
        unknown: id of `[UNK]`.
        special: ids of the padding and of other tokens that aren't words.
        step: number of the step.
    """
    is_word = ~np.isin(token_ids, special)
    words = int(is_word.sum())
    fraction = float((token_ids == unknown).sum()) / max(words, 1)
    if fraction <= MAX_UNKNOWN_FRACTION:
        return None
    return Finding(
        "unknown_tokens",
        f"The vocabulary lacks {fraction:.0%} of the words in the captions of a batch.",
        "Learn the vocabulary from your captions with `align_keras.learn_vocabulary`, "
        "or use a text encoder for their language.",
        step,
        {"unknown_fraction": fraction},
    )


def check_images(images: np.ndarray, step: int) -> Finding | None:
    """Checks that the images differ from each other.

    Args:
        images: array (n, height, width, 3) of gray levels from 0 to 255, after
            preprocessing.
        step: number of the step.
    """
    if len(images) < MIN_IMAGES:
        return None
    deviation = float(np.asarray(images, "float32").std(axis=0).mean())
    if not deviation < MIN_PIXEL_DEVIATION:
        return None
    mean = float(np.mean(images))
    return Finding(
        "images_alike",
        f"The images of a batch are all alike after preprocessing: Their gray levels "
        f"are {mean:.1f} of 255 and differ by {deviation:.1f}.",
        "Pass pixels from 0 to 255, or pass the black and white of your float images "
        "as `value_range`.",
        step,
        {"gray_level": mean, "deviation": deviation},
    )


def check_wait(waited: float, seconds: float, step: int) -> Finding | None:
    """Checks that the input pipeline is as fast as the steps.

    Args:
        waited: seconds in which the steps waited for their batch.
        seconds: seconds of these steps, including the wait.
        step: number of the step.
    """
    if waited < MIN_WAIT_SECONDS or waited <= MAX_WAIT_FRACTION * seconds:
        return None
    return Finding(
        "slow_input",
        f"The input is slower than the training, which waits for batches during "
        f"{waited / seconds:.0%} of its time.",
        "Cache the decoded images, store them at the size of the model, or add CPU "
        "cores.",
        step,
        {"waited_seconds": waited, "seconds": seconds},
    )

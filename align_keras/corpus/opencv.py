"""OpenCV, which reduces and encodes pictures in a part of Pillow's time."""

import functools

from align_keras.utils.errors import InputError


@functools.cache
def opencv():
    """Returns the module cv2, set to one thread: the corpus's workers take all cores.

    Raises:
        InputError: if it isn't installed.
    """
    try:
        import cv2
    except ImportError:
        raise InputError(
            "the corpus's pictures are reduced by OpenCV, which isn't installed; run "
            '`pip install "align-keras[corpus]"`.'
        ) from None
    cv2.setNumThreads(1)
    return cv2

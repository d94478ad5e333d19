"""OpenCV, which reduces and encodes pictures in a part of Pillow's time."""

import functools

from align_keras.utils.extras import needs


@functools.cache
def opencv():
    """Returns the module cv2, set to one thread: the corpus's workers take all cores.

    Raises:
        InputError: if it isn't installed.
    """
    with needs("corpus", "pictures of a corpus are reduced by OpenCV"):
        import cv2
    cv2.setNumThreads(1)
    return cv2

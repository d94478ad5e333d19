"""Mark of the tests that need TensorFlow Text, which may be missing or not load."""

import pytest

# This package changes the error of a library that doesn't load to an ImportError.
import align_keras  # noqa: F401

try:
    import tensorflow_text
except ImportError:
    tensorflow_text = None

needs_tensorflow_text = pytest.mark.skipif(
    tensorflow_text is None, reason="tensorflow-text is missing or doesn't load"
)

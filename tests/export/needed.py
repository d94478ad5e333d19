"""What a test needs beside this package: a reason to skip it, or to fail."""

import os

import pytest


def missing(reason):
    """Skips the test; fails it where .ci/run has installed all that it needs."""
    if os.environ.get("ALIGN_KERAS_ALL_INSTALLED"):
        pytest.fail(f"{reason}, though ALIGN_KERAS_ALL_INSTALLED is set")
    pytest.skip(reason)

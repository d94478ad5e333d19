"""Tests of the import of OpenCV, which is optional and limited to one thread."""

import sys

import pytest

from align_keras.corpus.duplicates.hashes import opencv
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci


@pytest.fixture(autouse=True)
def _empty_cache():
    opencv.cache_clear()
    yield
    opencv.cache_clear()


def test_opencv_has_one_thread():
    assert opencv().getNumThreads() == 1


def test_a_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"\[corpus\]"):
        opencv()

"""OpenCV is an extra, and of one thread in a worker."""

import sys

import pytest

from align_keras.corpus.image import opencv
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci


@pytest.fixture(autouse=True)
def _asked_anew():
    opencv.cache_clear()
    yield
    opencv.cache_clear()


def test_it_has_one_thread():
    assert opencv().getNumThreads() == 1


def test_its_lack_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install \"align-keras\[corpus\]\""):
        opencv()

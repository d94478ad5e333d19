"""What every test runs under. Nothing here imports TensorFlow."""

import os
import sys

import hypothesis
import pytest

# Before any test imports TensorFlow or transformers: no start-up notes, and no
# network, which no test may need.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["KERAS_BACKEND"] = "tensorflow"

# The same examples in every run, and no verdict by the clock of a busy machine.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_ignore_collect(collection_path):
    """Keeps `--doctest-modules` from importing the scripts that tests run."""
    is_script = collection_path.suffix == ".py" and not collection_path.name.startswith(
        "test_"
    )
    return True if is_script else None


@pytest.fixture(autouse=True)
def _seeded():
    """Fixed seeds, where the test is one that has imported Keras."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)

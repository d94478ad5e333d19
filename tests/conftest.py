"""What every test runs under. Nothing here imports TensorFlow."""

import importlib.abc
import importlib.util
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


class _SplitCpu(importlib.abc.MetaPathFinder):
    """Splits the CPU into two logical devices as soon as TensorFlow is imported.

    Tests of two replicas then run in the process of all others: devices can't be
    split once TensorFlow has been used, whichever test that was.
    """

    def find_spec(self, name, path, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_split(module):
            load(module)
            config = module.config
            config.set_logical_device_configuration(
                config.list_physical_devices("CPU")[0],
                [config.LogicalDeviceConfiguration()] * 2,
            )

        spec.loader.exec_module = load_and_split
        return spec


sys.meta_path.insert(0, _SplitCpu())


@pytest.fixture(scope="session")
def two_replicas():
    """A `MirroredStrategy` of two logical CPUs; a process holds one."""
    from align_keras.training.strategies import make_strategy

    return make_strategy("mirrored", 2)


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

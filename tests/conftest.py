"""What every test runs under. Nothing here imports TensorFlow."""

import gc
import importlib.abc
import importlib.util
import os
import random
import re
import sys
import tempfile

import hypothesis
import pytest

import align_keras  # noqa: F401 (before TensorFlow, as users import it, for oneDNN)

# Before any test imports TensorFlow or transformers: no start-up notes, and no
# network, which no test may need.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["KERAS_BACKEND"] = "tensorflow"
# Models that tests name with `--model` are noted here, not in the user's home.
_data_home = tempfile.TemporaryDirectory()
os.environ["XDG_DATA_HOME"] = _data_home.name

# TensorFlow's graphs are many small objects: usual collections over them took 3 to 8 %
# of the CPU seconds of four test files.
gc.set_threshold(200_000, 20, 50)

# The same examples in every run, and no verdict by the clock of a busy machine.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Where all is installed that the tier needs (`.ci/run` says so), a skipped test fails,
# but for these reasons: what a machine may not have, and nothing installs.
ALL_INSTALLED = "ALIGN_KERAS_ALL_INSTALLED"
ALLOWED_SKIPS = (
    "may not mount a disk here",
    "root writes everywhere",
    "needs the ratings of CxC",
    "not a git checkout",
    "torch brings triton",
)
# A file that is left out of the default run as a whole may stop at a missing package.
_LEFT_OUT = re.compile(r"^pytestmark = .*pytest\.mark\.(ci|release)\b", re.MULTILINE)


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


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """A folder of drawn images with classes, two of them damaged."""
    from tests.helpers.drawings import draw

    root = tmp_path_factory.mktemp("drawings")
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("rings", "bars", "plain")):
            own = root / split / name
            own.mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * (split == "test")
                draw(label, seed).save(own / f"{number:02}.png")
    (root / "test" / "bars" / "05.png").write_bytes(b"junk")
    (root / "train" / "bars" / "12.png").write_bytes(b"junk")
    return root


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """The folder of a model that has seen drawn images."""
    import keras
    import numpy as np

    from align_keras.models import ALIGN
    from tests.helpers.drawings import draw
    from tests.helpers.small import VOCABULARY, small_encoders

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model")
    align = ALIGN(*small_encoders(lite=True), vocabulary=VOCABULARY)
    # Statistics of pictures, without which random features all but vanish.
    pictures = [draw(label, 500 + seed) for label in range(3) for seed in range(8)]
    pixels = np.stack([np.asarray(own.resize((32, 32))) for own in pictures])
    for layer in align.image_encoder._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    for _ in range(6):
        align.image_encoder(pixels, training=True)
    align.save_to_preset(path)
    return path


def pytest_ignore_collect(collection_path):
    """Keeps `--doctest-modules` from importing the scripts that tests run."""
    is_script = collection_path.suffix == ".py" and not collection_path.name.startswith(
        "test_"
    )
    return True if is_script else None


def seed() -> None:
    """Sets the seeds of Python and NumPy, from which Keras draws its own.

    TensorFlow's isn't set: that empties its caches, and every graph function would be
    instantiated again in every test, which took half of the tests' time.
    """
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    """Seeds what tests share, whichever of them asks for it first."""
    if fixturedef.scope != "function":
        seed()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return refuse_silent_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    expression = collector.config.getoption("markexpr")
    path = collector.path
    if "not ci" in expression and path.suffix == ".py" and path.is_file():
        if _LEFT_OUT.search(path.read_text(encoding="utf-8")):
            return report
    return refuse_silent_skip(report)


def refuse_silent_skip(report):
    """Fails a report of a skip where all is installed that tests need."""
    if not (report.skipped and os.environ.get(ALL_INSTALLED)):
        return report
    if getattr(report, "wasxfail", None) is not None:
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if not any(allowed in str(reason) for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{reason}, though {ALL_INSTALLED} is set"
    return report

"""Environment and fixtures of all tests. This module does not import TensorFlow."""

import gc
import importlib.abc
import importlib.util
import os
import random
import re
import sys
import tempfile

import pytest

import align_keras  # noqa: F401 (before TensorFlow, as users import it, for oneDNN)

# These variables must be set before a test imports TensorFlow or transformers. They
# suppress start-up messages and prevent network access, which no test may need.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["KERAS_BACKEND"] = "tensorflow"
# The command records the models of `--model` here instead of in the user's home folder.
_data_home = tempfile.TemporaryDirectory()
os.environ["XDG_DATA_HOME"] = _data_home.name

# TensorFlow's graphs consist of many small objects. Garbage collection with the default
# thresholds took 3 to 8 % of the CPU seconds of four test files.
gc.set_threshold(200_000, 20, 50)

# `.ci/run` sets this variable if all packages of the tier are installed. A skipped test
# then fails, unless its reason contains one of `ALLOWED_SKIPS`. These reasons depend on
# the machine and cannot be removed by installing a package.
ALL_INSTALLED = "ALIGN_KERAS_ALL_INSTALLED"
ALLOWED_SKIPS = (
    "may not mount a disk here",
    "root writes everywhere",
    "not a git checkout",
    "torch installs triton",
)
# Marker of all tests of a file.
_MARKS_OF_FILE = re.compile(
    r"^pytestmark = (?:\[[^\]]*?|[^\[\n]*?)pytest\.mark\.(ci|release)\b", re.MULTILINE
)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Import hook that calls a function once, after a module is imported."""

    def __init__(self, name, function):
        self._name = name
        self._function = function

    def find_spec(self, name, path, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader = spec.loader

        def load_and_call(module):
            # Several modules may share the loader.
            del loader.exec_module
            loader.exec_module(module)
            self._function(module)

        loader.exec_module = load_and_call
        return spec


def _split_cpu(tensorflow):
    """Splits the CPU into two logical devices, which must happen before their use.

    Tests of two replicas can then run in the same process as all other tests.
    """
    config = tensorflow.config
    config.set_logical_device_configuration(
        config.list_physical_devices("CPU")[0],
        [config.LogicalDeviceConfiguration()] * 2,
    )


def _make_repeatable(hypothesis):
    """Every run tests the same examples, without a limit of their time."""
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable")


def _call_after_import(name, function):
    """Calls a function with a module as soon as the module is imported."""
    # The pytest plugin of schemathesis imports hypothesis before this file is read.
    if name in sys.modules:
        function(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, function))


_call_after_import("tensorflow", _split_cpu)
_call_after_import("hypothesis", _make_repeatable)


@pytest.fixture(scope="session")
def two_replicas():
    """The `MirroredStrategy` of two logical CPUs. A process can have only one."""
    from align_keras.training.strategies import make_strategy

    return make_strategy("mirrored", 2)


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """A folder of drawn images in class folders, with two damaged files."""
    from tests.helpers.drawings import draw

    root = tmp_path_factory.mktemp("drawings")
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("rings", "bars", "plain")):
            class_folder = root / split / name
            class_folder.mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * (split == "test")
                draw(label, seed).save(class_folder / f"{number:02}.png")
    (root / "test" / "bars" / "05.png").write_bytes(b"junk")
    (root / "train" / "bars" / "12.png").write_bytes(b"junk")
    return root


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """The folder of a small model with batch statistics of drawn images."""
    import keras
    import numpy as np

    from align_keras.models import ALIGN
    from tests.helpers.drawings import draw
    from tests.helpers.small import VOCABULARY, small_encoders

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model")
    align = ALIGN.from_encoders(*small_encoders(lite=True), vocabulary=VOCABULARY)
    # With the initial statistics, random weights would cause features close to zero.
    images = [draw(label, 500 + seed) for label in range(3) for seed in range(8)]
    pixels = np.stack([np.asarray(image.resize((32, 32))) for image in images])
    for layer in align.image_encoder._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    for _ in range(6):
        align.image_encoder(pixels, training=True)
    align.save_to_preset(path)
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished run with export, index and report. Don't change it.

    The first process of pytest that needs the run builds it for all processes.
    """
    import filelock

    from tests.helpers.small_run import write_finished_run

    folder = tmp_path_factory.getbasetemp() / "finished_run"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "finished_run"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "run" / "report.html").exists():
            write_finished_run(folder)
    return folder / "run"


@pytest.fixture
def hub_stub(monkeypatch, tmp_path):
    """Stub of the Hugging Face Hub, to which the client of this process connects.

    It has no users and repositories. `hub_stub.environment` returns the environment of
    another process that connects to it.
    """
    from tests.helpers.hub_stub import HubStub

    stub = HubStub()
    stub.connect(monkeypatch, tmp_path / "hub_cache")
    yield stub
    stub.stop()


def pytest_ignore_collect(collection_path, config):
    """Ignores files without tests of the tier, whose imports would take seconds.

    Scripts that are not tests are ignored too, which `--doctest-modules` would import.
    """
    if collection_path.suffix != ".py":
        return None
    if not collection_path.name.startswith("test_"):
        return True
    text = collection_path.read_text(encoding="utf-8")
    expression = config.getoption("markexpr")
    excluded = set(re.findall(r"not (ci|release)\b", expression))
    if excluded & set(_MARKS_OF_FILE.findall(text)):
        return True
    return None


def seed() -> None:
    """Sets the seeds of Python and NumPy. Keras draws its seeds from Python's.

    TensorFlow's seed isn't set, because that empties TensorFlow's caches. Every test
    would then trace its graph functions again, which took half of the tests' time.
    """
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    """Sets the seeds before shared fixtures, so that the test order is irrelevant."""
    if fixturedef.scope != "function":
        seed()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return refuse_silent_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    return refuse_silent_skip(report)


def refuse_silent_skip(report):
    """Turns a skip into a failure if all packages are installed.

    Skips for the reasons in `ALLOWED_SKIPS` remain.
    """
    if not (report.skipped and os.environ.get(ALL_INSTALLED)):
        return report
    if getattr(report, "wasxfail", None) is not None:
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if not any(allowed in str(reason) for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"Skipped although {ALL_INSTALLED} is set. Reason: {reason}"
    return report

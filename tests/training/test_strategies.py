"""Strategies by name."""

import subprocess
import sys

import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.training.strategies import (
    distributed_batches,
    make_strategy,
    split_cpu,
    strategy_scope,
    tpu_address,
)
from align_keras.utils.errors import InputError


def test_names():
    assert make_strategy("default") is None
    with strategy_scope(None):
        assert not tf.distribute.has_strategy()
    assert isinstance(make_strategy("one_device"), tf.distribute.OneDeviceStrategy)
    strategy = make_strategy("mirrored", 1)
    assert strategy.num_replicas_in_sync == 1


def test_a_strategy_copies_no_dataset(monkeypatch):
    """Of decoded images a copy takes a minute, as TensorFlow rewrites its functions."""
    from tensorflow.python.data.experimental.ops import distribute

    def refuse(*arguments):
        raise AssertionError("a dataset was copied")

    monkeypatch.setattr(distribute, "replicate", refuse)
    strategy = make_strategy("one_device")

    def make_batches(start_step):
        return tf.data.Dataset.range(start_step, 9).batch(2).repeat()

    batches = distributed_batches(strategy, make_batches, 4)
    assert next(iter(batches)).numpy().tolist() == [4, 5]
    with pytest.raises(AssertionError, match="copied"):
        strategy.experimental_distribute_dataset(make_batches(0))
    assert isinstance(
        distributed_batches(tf.distribute.get_strategy(), make_batches, 0),
        tf.data.Dataset,
    )


def test_no_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match="no TPU was found"):
        make_strategy("tpu")


def test_a_tpus_address(tmp_path, monkeypatch):
    """The one that is named, else the machine's own, else the environment's."""
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match="TPU_NAME isn't set"):
        tpu_address(None, str(tmp_path))
    monkeypatch.setenv("TPU_NAME", "mine")
    assert tpu_address(None, str(tmp_path)) == "mine"
    for device in ("accel0", "vfio/0"):
        own = tmp_path / device.replace("/", "_")
        (own / device).parent.mkdir(parents=True)
        (own / device).touch()
        assert tpu_address(None, str(own)) == "local"
        assert tpu_address("grpc://10.0.0.2:8470", str(own)) == "grpc://10.0.0.2:8470"


def test_the_address_reaches_the_resolver(monkeypatch):
    asked = []

    def resolver(address):
        asked.append(address)
        raise ValueError("no such TPU\nand more")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    runtime = load_config(
        params_override="runtime.distribution_strategy=tpu,runtime.tpu=pod"
    ).runtime
    with pytest.raises(InputError, match="received 'pod' .no such TPU.. Check"):
        make_strategy(runtime.distribution_strategy, tpu=runtime.tpu)
    assert asked == ["pod"]


@pytest.mark.release
def test_a_tpu_that_is_not_there():
    """By TensorFlow's own resolver, in a process of its own."""
    script = (
        "from align_keras.training.strategies import make_strategy;"
        "make_strategy('tpu', tpu='local')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    last = ran.stderr.strip().splitlines()[-1]
    assert "InputError: runtime.tpu must be a TPU that can be reached" in last


def test_logical_devices_are_made_once():
    split_cpu(2)  # The test's process has them.
    with pytest.raises(InputError, match="must be set before TensorFlow is used"):
        split_cpu(3)

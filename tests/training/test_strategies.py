"""Tests of the creation of distribution strategies and of their batches."""

import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.training import strategies
from align_keras.training.strategies import (
    distributed_batches,
    make_strategy,
    strategy_scope,
    tpu_address,
)
from align_keras.utils.errors import InputError


def test_names_select_the_strategy():
    assert make_strategy("default") is None
    with strategy_scope(None):
        assert not tf.distribute.has_strategy()
    assert isinstance(make_strategy("one_device"), tf.distribute.OneDeviceStrategy)
    strategy = make_strategy("mirrored", 1)
    assert strategy.num_replicas_in_sync == 1


def test_a_strategy_does_not_copy_the_dataset(monkeypatch):
    """TensorFlow needs a minute to copy a dataset of decoded images."""
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


def test_the_strategy_tpu_needs_a_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match="TPU_NAME"):
        make_strategy("tpu")


def test_a_tpu_that_refuses_or_ignores_connections_is_an_error(monkeypatch):
    monkeypatch.setattr(strategies, "_CONNECTION_TIMEOUT", 0.2)
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*server.getsockname())
        with pytest.raises(InputError, match="refused"):
            make_strategy("tpu", tpu=f"grpc://{address}")
        # The next connection waits until this one is accepted.
        server.listen(0)
        client.connect(server.getsockname())
        with pytest.raises(InputError, match="timed out"):
            make_strategy("tpu", tpu=f"grpc://{address}")


def test_a_tpu_that_accepts_a_connection_and_never_answers_is_an_error(monkeypatch):
    monkeypatch.setattr(strategies, "_CONNECTION_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "grpc://{}:{}".format(*server.getsockname())
        with pytest.raises(InputError, match="timed out"):
            make_strategy("tpu", tpu=address)


def test_a_grpc_server_of_tensorflow_passes_the_check_of_connections():
    server = tf.distribute.Server.create_local_server()
    strategies._check_connections(server.target)


def test_the_tpu_address_is_the_argument_local_or_the_value_of_tpu_name(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match="TPU_NAME"):
        tpu_address(None, str(tmp_path))
    monkeypatch.setenv("TPU_NAME", "mine")
    assert tpu_address(None, str(tmp_path)) == "mine"
    for device in ("accel0", "vfio/0"):
        devices = tmp_path / device.replace("/", "_")
        (devices / device).parent.mkdir(parents=True)
        (devices / device).touch()
        assert tpu_address(None, str(devices)) == "local"
        address = "grpc://10.0.0.2:8470"
        assert tpu_address(address, str(devices)) == address


def test_the_configured_address_is_passed_to_tensorflow(monkeypatch):
    addresses = []

    def resolver(address):
        addresses.append(address)
        raise ValueError("no such TPU\nand more")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    runtime = load_config(
        params_override="runtime.distribution_strategy=tpu,runtime.tpu=pod"
    ).runtime
    words = "runtime.tpu='pod' .no such TPU"
    with pytest.raises(InputError, match=words):
        make_strategy(runtime.distribution_strategy, tpu=runtime.tpu)
    assert addresses == ["pod"]


@pytest.mark.release
def test_an_unreachable_tpu_is_an_input_error():
    """The resolver of TensorFlow runs in a separate process."""
    script = (
        "from align_keras.training.strategies import make_strategy;"
        "make_strategy('tpu', tpu='local')"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    last_line = process.stderr.strip().splitlines()[-1]
    assert "InputError: runtime.tpu must" in last_line

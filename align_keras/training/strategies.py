"""Creation of the `tf.distribute` strategy of a run, and functions for its workers."""

import contextlib
import os
import pathlib
import socket
import urllib.parse
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.models.inference import is_distributed
from align_keras.models.lora import adapted_layers
from align_keras.utils.errors import InputError

# File in the folder of a run with LoRA.
LORA_FILE = "lora.lora.h5"
# Device files of the chips of a TPU VM, by generation.
_TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")
# Seconds until a TPU must accept a connection and answer. TensorFlow would wait without
# end.
_CONNECTION_TIMEOUT = 60.0
# First bytes of a client of gRPC and a frame of empty settings. The server answers with
# its own settings (RFC 9113, section 3.4).
_EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS


def make_strategy(
    name: str, num_replicas: int | None = None, tpu: str | None = None
) -> tf.distribute.Strategy | None:
    """Returns the strategy with a name of `RuntimeConfig`, or None for `"default"`.

    Args:
        name: `runtime.distribution_strategy`.
        num_replicas: for `"mirrored"`, the number of GPUs. Without a GPU,
            it is the number of logical CPU devices, which are created here, so
            TensorFlow must not be in use yet. None uses all GPUs or the CPU.
        tpu: for `"tpu"`, as in `tpu_address`.
    """
    if name == "default":
        return None
    if name == "one_device":
        device = "/gpu:0" if tf.config.list_physical_devices("GPU") else "/cpu:0"
        return tf.distribute.OneDeviceStrategy(device)
    if name == "mirrored":
        if num_replicas is None:
            return tf.distribute.MirroredStrategy()
        kind = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
        if kind == "cpu":
            split_cpu(num_replicas)
        devices = [f"/{kind}:{number}" for number in range(num_replicas)]
        return tf.distribute.MirroredStrategy(devices)
    if name == "tpu":
        return _tpu_strategy(tpu_address(tpu))
    return tf.distribute.MultiWorkerMirroredStrategy()


def tpu_address(tpu: str | None = None, devices: str = "/dev") -> str:
    """Returns the address of the TPU.

    Args:
        tpu: name or address, or None for `"local"` on a TPU VM and otherwise the
            environment variable TPU_NAME.
        devices: folder of the device files, for tests.

    Raises:
        InputError: if no TPU is found.
    """
    if tpu is not None:
        return tpu
    folder = pathlib.Path(devices)
    if any(next(folder.glob(pattern), None) for pattern in _TPU_DEVICES):
        return "local"
    if os.environ.get("TPU_NAME"):
        return os.environ["TPU_NAME"]
    raise InputError(
        "A TPU must be available for runtime.distribution_strategy=tpu. Received: no "
        "TPU, because this machine isn't a TPU VM and TPU_NAME isn't set. Pass "
        "--params_override runtime.tpu=NAME, or set runtime.distribution_strategy to "
        "mirrored or default."
    )


def _tpu_strategy(address: str) -> tf.distribute.Strategy:
    cluster_resolver, tpu = tf.distribute.cluster_resolver, tf.tpu.experimental
    try:
        if address.startswith("grpc://"):
            _check_connections(address)
        resolver = cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tpu.initialize_tpu_system(resolver)
    # Resolving a name needs the API client of Google, which may be missing.
    except (ValueError, ImportError, OSError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            "runtime.tpu must be a TPU that can be reached. Received: "
            f"runtime.tpu={address!r} ({reason[:160]}). Check the name, or set "
            "runtime.distribution_strategy to mirrored or default."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_connections(address: str) -> None:
    """Raises `OSError` unless each host of an address answers as a gRPC server."""
    for host in address.split(","):
        parts = urllib.parse.urlsplit(host if "//" in host else f"//{host}")
        server = (parts.hostname or "", parts.port or 8470)
        with socket.create_connection(server, _CONNECTION_TIMEOUT) as connection:
            connection.sendall(_HTTP2_PREFACE)
            if not connection.recv(1):
                raise ConnectionError(f"{server} closed the connection")


def strategy_scope(
    strategy: tf.distribute.Strategy | None,
) -> contextlib.AbstractContextManager:
    """Returns the scope of the strategy. For None it is a scope without effect."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns True if this process writes the checkpoints, logs and metrics."""
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec().as_dict() if resolver is not None else {}
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not spec:
        return True
    if "chief" in spec:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes of the run.

    Each process reads its part of the input.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return max(1, len(spec.get("chief", ())) + len(spec.get("worker", ())))


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns True if the flag is set in any worker.

    All workers must call this function.
    """
    if worker_count(strategy) == 1:
        return flag
    flags = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(float(flag))
    )
    return float(strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)) > 0


def wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Waits for all workers, since TensorFlow ends all of them when one exits."""
    any_worker(strategy, True)


def save_by_chief(model: Any, directory: str | os.PathLike) -> None:
    """Saves a model as a preset. The chief writes it, and all workers wait.

    The preset of a model with LoRA has merged kernels. `lora.lora.h5` next to it has
    the factors.
    """
    if is_chief(model.distribute_strategy):
        model.save_to_preset(directory)
        if adapted_layers(model.backbone):
            model.save_lora_weights(pathlib.Path(directory) / LORA_FILE)
    wait_for_workers(model.distribute_strategy)


def distributed_batches(
    strategy: tf.distribute.Strategy, make_batches: Callable, start_step: int
) -> Any:
    """Returns the batches for `fit`.

    With several workers, each worker gets its rows of each batch.

    Args:
        strategy: strategy of the model.
        make_batches: as in `train_model`.
        start_step: number of the first batch.
    """
    if not is_distributed(strategy):
        return make_batches(start_step=start_step)

    def batches_of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        hosts = context.num_input_pipelines
        pipeline = {}
        if hosts > 1:
            pipeline = {
                "input_pipeline_id": context.input_pipeline_id,
                "num_input_pipelines": hosts,
            }
        # For data with an end, TensorFlow would synchronize the workers at each step.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        batches = make_batches(start_step=start_step, **pipeline).apply(endless)
        replicas = strategy.num_replicas_in_sync // hosts
        if replicas == 1:
            return batches

        def split(*batch: Any) -> Any:
            """Reshapes (n, …) to (replicas, n / replicas, …)."""
            return tf.nest.map_structure(
                lambda value: tf.reshape(value, (replicas, -1, *value.shape[1:])),
                batch[0] if len(batch) == 1 else batch,
            )

        return batches.map(split).unbatch()

    # `experimental_distribute_dataset` would copy the dataset. For a copy, TensorFlow
    # prepares each nested function several times, which takes a minute for datasets
    # that decode images.
    return strategy.distribute_datasets_from_function(batches_of_host)


def split_cpu(count: int) -> None:
    """Creates `count` logical CPU devices, unless there are that many already."""
    config = tf.config
    cpu = config.list_physical_devices("CPU")[0]
    if len(config.get_logical_device_configuration(cpu) or ()) >= count:
        return
    config.set_logical_device_configuration(
        cpu, [config.LogicalDeviceConfiguration() for _ in range(count)]
    )

"""The `tf.distribute` strategy of a run, by name."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.models.on_replicas import is_distributed
from align_keras.utils.errors import InputError

# Device files of the chips of a TPU VM, by generation.
_TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")


def make_strategy(
    name: str, num_replicas: int | None = None, tpu: str | None = None
) -> tf.distribute.Strategy | None:
    """Returns the strategy of a name in `RuntimeConfig`, or None for `"default"`.

    `num_replicas` is for `"mirrored"`: the number of GPUs, or of logical CPU devices
    on a machine without a GPU, which must be made before TensorFlow is used.
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
    """Returns the address of the TPU: `tpu`, `"local"` on a TPU VM, or TPU_NAME."""
    if tpu is not None:
        return tpu
    folder = pathlib.Path(devices)
    if any(next(folder.glob(pattern), None) for pattern in _TPU_DEVICES):
        return "local"
    if os.environ.get("TPU_NAME"):
        return os.environ["TPU_NAME"]
    raise InputError(
        "runtime.distribution_strategy is tpu, but no TPU was found: this is no TPU "
        "VM, and TPU_NAME isn't set. Name one by --params_override runtime.tpu=NAME, "
        "or use runtime.distribution_strategy=mirrored, or default."
    )


def _tpu_strategy(address: str) -> tf.distribute.Strategy:
    cluster_resolver, tpu = tf.distribute.cluster_resolver, tf.tpu.experimental
    try:
        resolver = cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tpu.initialize_tpu_system(resolver)
    # TensorFlow resolves a name through Google's API client, if it is installed.
    except (ValueError, ImportError, OSError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"runtime.tpu must be a TPU that can be reached, received {address!r} "
            f"({reason[:160]}). Check the name, or use "
            "runtime.distribution_strategy=mirrored, or default."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def strategy_scope(
    strategy: tf.distribute.Strategy | None,
) -> contextlib.AbstractContextManager:
    """Returns the strategy's scope, or a scope that does nothing for None."""
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
    """Returns the number of processes of the run. Each reads its part of the input."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return max(1, len(spec.get("chief", ())) + len(spec.get("worker", ())))


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns True if the flag is set in any worker. All workers must call this."""
    if worker_count(strategy) == 1:
        return flag
    flags = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(float(flag))
    )
    return float(strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)) > 0


def wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Waits for all workers. A worker that exits early ends the others."""
    any_worker(strategy, True)


def save_by_chief(model: Any, directory: str | os.PathLike) -> None:
    """Saves a model as a preset. The chief writes it, and all workers wait."""
    if is_chief(model.distribute_strategy):
        model.save_to_preset(directory)
    wait_for_workers(model.distribute_strategy)


def distributed_batches(
    strategy: tf.distribute.Strategy, make_batches: Callable, start_step: int
) -> Any:
    """Returns the batches for `fit`, with several workers the rows of this one."""
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
        # TensorFlow synchronizes the workers at each step unless the data is endless.
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

    # A strategy copies a dataset, and TensorFlow then prepares each function of the
    # copy again for every function around it. With decoded images this takes a minute.
    return strategy.distribute_datasets_from_function(batches_of_host)


def split_cpu(count: int) -> None:
    """Makes `count` logical devices of the CPU, unless there are that many already."""
    config = tf.config
    cpu = config.list_physical_devices("CPU")[0]
    if len(config.get_logical_device_configuration(cpu) or ()) >= count:
        return
    try:
        config.set_logical_device_configuration(
            cpu, [config.LogicalDeviceConfiguration() for _ in range(count)]
        )
    except RuntimeError as error:
        raise InputError(
            f"runtime.num_replicas must be set before TensorFlow is used. Received: "
            f"{count}. Start a new process."
        ) from error

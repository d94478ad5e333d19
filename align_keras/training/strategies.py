"""The `tf.distribute` strategy of a run, by name."""

import contextlib

import tensorflow as tf

from align_keras.utils.errors import InputError

STRATEGIES = ("default", "one_device", "mirrored", "multi_worker_mirrored", "tpu")


def make_strategy(name, num_replicas=None):
    """Returns the strategy of that name, or None for `"default"`.

    Args:
        name: str, one of `STRATEGIES`.
        num_replicas: int or None; for `"mirrored"`, how many of the GPUs, or
            without a GPU how many logical CPU devices.

    Returns:
        `tf.distribute.Strategy` or None.

    Raises:
        InputError: if the name is unknown.

    Example:

    >>> make_strategy("default") is None
    True
    """
    if name == "default":
        return None
    if name == "one_device":
        device = "/gpu:0" if tf.config.list_physical_devices("GPU") else "/cpu:0"
        return tf.distribute.OneDeviceStrategy(device)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_devices(num_replicas))
    if name == "multi_worker_mirrored":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        except ValueError as error:
            raise InputError(
                "runtime.distribution_strategy is tpu, but no TPU was found; use "
                "--params_override runtime.distribution_strategy=mirrored, or default."
            ) from error
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    raise InputError(
        f"distribution_strategy must be one of {', '.join(STRATEGIES)}, received "
        f"{name!r}."
    )


def strategy_scope(strategy):
    """Returns the strategy's scope, or a scope that does nothing for None."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _devices(num_replicas):
    """Names of the first GPUs, or of logical CPUs made for the purpose."""
    if num_replicas is None:
        return None
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return [f"/gpu:{number}" for number in range(num_replicas)]
    if len(tf.config.list_logical_devices("CPU")) < num_replicas:
        raise InputError(
            f"runtime.num_replicas={num_replicas} needs as many logical devices; call "
            "split_cpu(num_replicas) before TensorFlow is used."
        )
    return [f"/cpu:{number}" for number in range(num_replicas)]


def split_cpu(count):
    """Makes `count` logical devices of the CPU, for tests of many replicas.

    Args:
        count: int ≥ 1. TensorFlow must not have been used yet in the process.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    )

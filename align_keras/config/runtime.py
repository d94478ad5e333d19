"""The `runtime` section: devices and precision."""

import dataclasses
from typing import Literal

from align_keras.config.fields import count


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """The `runtime` section.

    Attributes:
        distribution_strategy: str, how replicas work together; `default` is
            one device without a strategy's overhead.
        num_replicas: int >= 1, logical CPU devices to make, to try a strategy
            on one machine; None takes the devices that are there.
        mixed_precision_dtype: str, Keras's dtype policy.
        tpu: str, of the strategy tpu: a TPU's name, or its address, such as
            `grpc://10.0.0.2:8470`; `local` for the machine's own. None is `local` on a
            TPU VM, and elsewhere what the environment's TPU_NAME names.
    """

    distribution_strategy: Literal[
        "default", "mirrored", "multi_worker_mirrored", "one_device", "tpu"
    ] = "default"
    num_replicas: int | None = count(None)
    mixed_precision_dtype: Literal["float32", "mixed_bfloat16", "mixed_float16"] = (
        "float32"
    )
    tpu: str | None = None

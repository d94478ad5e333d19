"""Peak performance of accelerators, from the data sheets of their makers."""

import difflib
from typing import NamedTuple

from align_keras.utils.errors import InputError

_GIB = 2**30
_GIGA = 10**9
_TERA = 10**12


class DeviceKind(NamedTuple):
    """Device that TensorFlow counts as a replica.

    Attributes:
        float32_flops: float, peak operations a second under the policy float32, whose
            products are computed in bfloat16 passes or TF32 by default.
        half_flops: float, peak operations a second under mixed policies.
        bandwidth: float, bytes a second of its memory.
        memory: int, bytes of its memory, or None if other programs share it.
        source: str.
    """

    float32_flops: float
    half_flops: float
    bandwidth: float
    memory: int | None
    source: str


def _kind(
    float32_tera: float,
    half_tera: float,
    bandwidth_giga: float,
    memory_gib: int | None,
    source: str,
) -> DeviceKind:
    memory = memory_gib and memory_gib * _GIB
    bandwidth = bandwidth_giga * _GIGA
    return DeviceKind(
        float32_tera * _TERA, half_tera * _TERA, bandwidth, memory, source
    )


# The two cores of a TPU v2 or v3 chip are two devices, and a v4 chip is one. The peaks
# of NVIDIA's devices are those without sparsity.
DEVICE_KINDS = {
    "tpu_v2": _kind(23, 23, 350, 8, "half a chip: Jouppi et al. 2020, CACM 63(7)"),
    "tpu_v3": _kind(61.5, 61.5, 450, 16, "half a chip: cloud.google.com/tpu/docs/v3"),
    "tpu_v4": _kind(275, 275, 1200, 32, "a chip: cloud.google.com/tpu/docs/v4"),
    "v100": _kind(15.7, 125, 900, 16, "NVIDIA's data sheet of V100 SXM2, 16 GB"),
    "a100_40": _kind(156, 312, 1555, 40, "NVIDIA's data sheet of A100, 40 GB"),
    "a100_80": _kind(156, 312, 2039, 80, "NVIDIA's data sheet of A100, 80 GB"),
    "h100": _kind(494.7, 989.4, 3350, 80, "NVIDIA's data sheet of H100 SXM5"),
    "cpu": _kind(
        0.23,
        0.46,
        1.8,
        None,
        "a core with AVX-512: tools/benchmarks/bench_loss.py, half of the GB/s of "
        "tools/benchmarks/bench_plan.py",
    ),
}


def find_device_kind(name: str) -> DeviceKind:
    """Returns the entry of `DEVICE_KINDS`. An error suggests the nearest key.

    >>> find_device_kind("tpu_v3").memory // 2**30
    16
    """
    if name not in DEVICE_KINDS:
        wanted = name.lower()
        near = [kind for kind in DEVICE_KINDS if kind.startswith(wanted)]
        near = near or difflib.get_close_matches(wanted, DEVICE_KINDS, n=1)
        hint = f"did you mean {' or '.join(near)}? " if near and wanted else ""
        raise InputError(
            f"device_kind must be one of {', '.join(DEVICE_KINDS)}, received {name!r}; "
            f"{hint}Choose one of them."
        )
    return DEVICE_KINDS[name]

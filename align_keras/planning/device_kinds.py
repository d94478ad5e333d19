"""Peak performance of accelerators from the data sheets of their manufacturers."""

import difflib
from typing import NamedTuple

from align_keras.utils.errors import InputError

_GIB = 2**30
_GIGA = 10**9
_TERA = 10**12

# Fraction of the peak performance that an image encoder reaches. Depthwise convolutions
# and normalizations of EfficientNet leave most of a matrix unit idle. Two published
# runs support the value. Wongpanich et al. 2020 trained B5 (456 pixels, 350 epochs) in
# 64 minutes on 1,024 TPU v3 cores, which is 11% of the peak. The model card of
# coyo-align states 8 days for B7 and BERT-base (300,000 steps with 65,536 pairs) on 512
# cores. Given the utilization of the text encoder below, the image encoder reaches 5%.
UTILIZATION = 0.08
# Fraction of the peak performance that a text encoder reaches. You et al. 2020 (arXiv
# 1904.00962) trained BERT-large in 76 minutes on 2,048 TPU v3 cores. The run had 7,037
# steps with 65,536 texts of 128 tokens and 1,562 steps with 32,768 texts of 512 tokens.
# These 1.6e20 operations are 28% of the peak.
TEXT_UTILIZATION = 0.28


class DeviceKind(NamedTuple):
    """Kind of device that TensorFlow uses as one replica.

    Attributes:
        float32_flops: float, peak operations per second with the dtype policy float32.
            By default, TPUs compute its products in bfloat16 passes and GPUs in TF32.
        half_flops: float, peak operations per second with mixed precision.
        bandwidth: float, bandwidth of the memory in bytes per second.
        memory: int, size of the memory in bytes, or None if other programs share it.
        source: str, document that states the numbers.
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


# Each of the two cores of a TPU v2 or v3 chip is a device. A TPU v4 chip is a single
# device. The peaks of NVIDIA GPUs are those for dense matrices.
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
        "tools/benchmarks/bench_plan.py of commit a3635080",
    ),
}


def find_device_kind(name: str) -> DeviceKind:
    """Returns an entry of `DEVICE_KINDS`.

    Raises:
        InputError: if there is no such entry. The message suggests a similar name.

    >>> find_device_kind("tpu_v3").memory // 2**30
    16
    """
    if name not in DEVICE_KINDS:
        prefix = name.lower()
        matches = [kind for kind in DEVICE_KINDS if kind.startswith(prefix)]
        matches = matches or difflib.get_close_matches(prefix, DEVICE_KINDS, n=1)
        hint = "Choose one of them."
        if matches and prefix:
            hint = f"Did you mean {' or '.join(matches)}?"
        raise InputError(
            f"`device_kind` must be one of {', '.join(DEVICE_KINDS)}. Received: "
            f"device_kind={name!r}. {hint}"
        )
    return DEVICE_KINDS[name]

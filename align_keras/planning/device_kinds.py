"""Peak performance of accelerators from the data sheets of their manufacturers."""

import difflib
from typing import NamedTuple

from align_keras.utils.errors import InputError

_GIB = 2**30

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
        float32_flops: peak operations per second with the dtype policy float32.
            By default, TPUs compute its products in bfloat16 passes and GPUs in TF32.
        half_flops: peak operations per second with mixed precision.
        bandwidth: bandwidth of the memory in bytes per second.
        memory: size of the memory in bytes, or None if other programs share it.
    """

    float32_flops: float
    half_flops: float
    bandwidth: float
    memory: int | None


# Each of the two cores of a TPU v2 or v3 chip is a device. A TPU v4 chip is a single
# device. The peaks of NVIDIA GPUs are those for dense matrices.
DEVICE_KINDS = {
    # Half a chip: Jouppi et al. 2020, CACM 63(7).
    "tpu_v2": DeviceKind(23e12, 23e12, 350e9, 8 * _GIB),
    # Half a chip: cloud.google.com/tpu/docs/v3.
    "tpu_v3": DeviceKind(61.5e12, 61.5e12, 450e9, 16 * _GIB),
    # A chip: cloud.google.com/tpu/docs/v4.
    "tpu_v4": DeviceKind(275e12, 275e12, 1200e9, 32 * _GIB),
    # NVIDIA's data sheets of V100 SXM2 with 16 GB, A100 with 40 and 80 GB, H100 SXM5.
    "v100": DeviceKind(15.7e12, 125e12, 900e9, 16 * _GIB),
    "a100_40": DeviceKind(156e12, 312e12, 1555e9, 40 * _GIB),
    "a100_80": DeviceKind(156e12, 312e12, 2039e9, 80 * _GIB),
    "h100": DeviceKind(494.7e12, 989.4e12, 3350e9, 80 * _GIB),
    # A core with AVX-512: tools/benchmarks/bench_loss.py, half of the GB/s of
    # tools/benchmarks/bench_plan.py of commit a3635080.
    "cpu": DeviceKind(0.23e12, 0.46e12, 1.8e9, None),
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

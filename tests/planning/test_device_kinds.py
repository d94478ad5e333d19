import pytest

from align_keras.planning.device_kinds import DEVICE_KINDS, find_device_kind
from align_keras.utils.errors import InputError


@pytest.mark.parametrize("name", DEVICE_KINDS)
def test_all_device_kinds_have_plausible_numbers(name):
    kind = find_device_kind(name)
    assert 0 < kind.float32_flops <= kind.half_flops < 1e16
    assert 1e9 <= kind.bandwidth < 1e13
    assert kind.memory is None or 2**30 <= kind.memory <= 2**38


def test_device_kinds_match_published_numbers():
    # A TPU v3 pod with 1,024 chips or 2,048 cores has 126 petaflops.
    assert 2048 * find_device_kind("tpu_v3").half_flops == pytest.approx(
        126e15, rel=0.01
    )
    assert find_device_kind("h100").memory == 80 * 2**30


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("tpuv3", "tpu_v3"),
        ("a100", "a100_40 or a100_80"),
        ("H100", "h100"),
        ("", None),
        ("xyzzy", None),
    ],
)
def test_errors_about_unknown_kinds_suggest_similar_names(name, suggestion):
    with pytest.raises(InputError) as caught:
        find_device_kind(name)
    assert "tpu_v2, tpu_v3, tpu_v4, v100" in str(caught.value)
    hint = f"mean {suggestion}?" if suggestion else "Did you mean"
    assert (hint in str(caught.value)) == (suggestion is not None)

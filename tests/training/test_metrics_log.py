"""metrics.jsonl: torn by a kill, damaged by others."""

import pytest

from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.errors import InputError


def test_a_torn_last_line_is_left_out(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2.0})
    with open(log.path, "a") as file:
        file.write('{"step": 20, "lo')
    assert log.read() == [{"step": 10, "loss": 2.0}]


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b"[]", b"3", b'{"loss": 1}', b'{"step": "a"}', b"[" * 9999]
)
def test_a_damaged_line_is_named(tmp_path, line):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2.0})
    with open(log.path, "ab") as file:
        file.write(line + b"\n")
    for use in (log.read, lambda: log.truncate_after(10)):
        with pytest.raises(InputError, match="metrics.jsonl, line 2, must hold a step"):
            use()

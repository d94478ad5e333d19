"""Tests of metrics.jsonl with incomplete and damaged lines."""

import pytest

from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.errors import InputError


def test_an_incomplete_last_line_is_ignored(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2.0})
    with open(log.path, "a") as file:
        file.write('{"step": 20, "lo')
    assert log.read() == [{"step": 10, "loss": 2.0}]


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b"[]", b"3", b'{"loss": 1}', b'{"step": "a"}', b"[" * 9999]
)
def test_the_error_for_a_damaged_line_names_its_number(tmp_path, line):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2.0})
    with open(log.path, "ab") as file:
        file.write(line + b"\n")
    for use in (log.read, lambda: log.truncate_after(10)):
        words = "Line 2 of .*metrics.jsonl must be a JSON object of a step and numbers"
        with pytest.raises(InputError, match=words):
            use()

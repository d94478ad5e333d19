"""Tests of metrics.jsonl with an incomplete line."""

from align_keras.training.metrics_log import MetricsLog


def test_an_incomplete_last_line_is_ignored(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2 / 3})
    with open(log.path, "a") as file:
        file.write('{"step": 20, "lo')
    # Values have six digits.
    assert log.read() == [{"step": 10, "loss": 0.666667}]
    log.truncate_after(10)
    log.append(30, {"loss": 1.0})
    assert [line["step"] for line in log.read()] == [10, 30]
    log.truncate_after(10)
    assert log.read() == [{"step": 10, "loss": 0.666667}]

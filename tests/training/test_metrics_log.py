"""Tests of metrics.jsonl with an incomplete line."""

from align_keras.training.metrics_log import MetricsLog


def test_an_incomplete_last_line_is_ignored(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(10, {"loss": 2.0})
    with open(log.path, "a") as file:
        file.write('{"step": 20, "lo')
    assert log.read() == [{"step": 10, "loss": 2.0}]

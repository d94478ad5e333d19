"""Order, failures and state of the trackers of a run, and the events of TensorBoard."""

import contextlib
import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from align_keras.config import ExperimentConfig, as_dict
from align_keras.training.trackers import (
    RunTrackers,
    forget_tracked_runs,
    run_trackers,
    start_trackers,
)

CONFIG = as_dict(ExperimentConfig())
SECRET = "5f3a9c017be2"


class RecordingTracker:
    """Tracker that records its calls, and fails while `failure` is set."""

    remedy = "Check it."
    flush_seconds = 0.0
    run_id = "one"

    def __init__(self):
        self.failure = None
        self.calls = []

    def _record(self, *call):
        if self.failure:
            raise ConnectionError(self.failure)
        self.calls.append(call)

    def log(self, step, values):
        self._record(step, dict(values))

    def log_file(self, path, kind):
        self._record(path.name, kind)

    def finish(self, status):
        self._record(status)


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def trackers(tmp_path, tracker):
    trackers = RunTrackers(tmp_path)
    trackers.add("test", tracker, 0)
    return trackers


def saved_step(folder):
    return json.loads((folder / "trackers.json").read_text())["test"]["step"]


def test_metrics_that_fail_are_sent_later_in_order(
    trackers, tracker, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run_trackers, "RETRY_SECONDS", 0.0)
    trackers.log(2, {"loss": 4.0})
    tracker.failure = "no\nnetwork"
    trackers.log(4, {"loss": 3.0})
    trackers.log(6, {"loss": 2.0})
    assert capsys.readouterr().err == (
        "warning: test fails to log step 4 (no network). The training continues, and "
        "the metrics are sent later.\n"
    )
    assert saved_step(tmp_path) == 2
    tracker.failure = None
    trackers.log(8, {"loss": 1.0})
    assert [call[0] for call in tracker.calls] == [2, 4, 6, 8]
    assert saved_step(tmp_path) == 8 and not capsys.readouterr().err


def test_a_tracker_that_fails_is_tried_again_after_a_pause_and_at_the_end(
    trackers, tracker, capsys
):
    tracker.failure = "no network"
    trackers.log(2, {"loss": 4.0})
    tracker.failure = None
    trackers.log(4, {"loss": 3.0})
    assert not tracker.calls
    trackers.finish("finished")
    assert tracker.calls == [(2, {"loss": 4.0}), (4, {"loss": 3.0}), ("finished",)]
    assert capsys.readouterr().err.count("warning") == 1


def test_a_tracker_that_fails_until_the_end_names_the_remedy(
    trackers, tracker, tmp_path, capsys
):
    tracker.failure = "no network"
    with trackers:
        trackers.log(2, {"loss": 4.0})
        trackers.log_file(tmp_path / "report.html", "report")
    messages = capsys.readouterr().err
    assert "fails to store report.html (no network)" in messages
    assert "fails to end the run (no network)" in messages
    assert "lacks the metrics of 1 steps, which are in metrics.jsonl." in messages
    assert saved_step(tmp_path) == 0


def test_repeated_steps_of_a_resumed_run_are_sent_once(tmp_path, tracker):
    trackers = RunTrackers(tmp_path)
    trackers.add("test", tracker, 4)
    for step in (2, 4, 6, 6):
        trackers.log(step, {"loss": 1.0})
    assert tracker.calls == [(6, {"loss": 1.0})]


def test_metrics_in_the_memory_of_a_tracker_are_not_yet_safe(
    trackers, tracker, tmp_path
):
    tracker.flush_seconds = 3600.0
    trackers.log(2, {"loss": 4.0})
    assert saved_step(tmp_path) == 0
    trackers.finish("finished")
    assert saved_step(tmp_path) == 2


@pytest.mark.parametrize(
    "error, status",
    [(None, "finished"), (SystemExit, "killed"), (ValueError, "failed")],
)
def test_the_status_of_a_run_is_the_end_of_the_training(
    trackers, tracker, error, status
):
    expected_error = pytest.raises(error) if error else contextlib.nullcontext()
    with expected_error, trackers:
        if error:
            raise error
    assert tracker.calls == [(status,)]


def test_secrets_are_removed_from_messages(trackers, tracker, capsys, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    tracker.failure = f"https://me:{SECRET}@host and {SECRET}"
    trackers.log(2, {"loss": 4.0})
    message = capsys.readouterr().err
    assert "https://me:***@host and ***" in message and SECRET not in message


def read_events(folder):
    """Returns a dict from tag to (step, value) pairs of the event files in a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [
            (event.step, tf.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_has_the_steps_and_the_names_of_the_metrics(tmp_path):
    with start_trackers(["tensorboard"], tmp_path, CONFIG) as trackers:
        trackers.log(2, {"loss": 4.0})
        trackers.log(4, {"loss": 3.0, "t2i/recall_at_1": 0.5})
    # The resumed run begins at its checkpoint. Its log has a step that it did not send.
    lines = [{"step": 4, "loss": 3.0}, {"step": 6, "loss": 2.0}]
    lines.append({"step": 6, "t2i/recall_at_1": 0.75})
    with start_trackers(["tensorboard"], tmp_path, CONFIG, lines) as trackers:
        trackers.log(8, {"loss": 1.0})
    events = read_events(tmp_path / "tensorboard")
    assert events["loss"] == [(2, 4.0), (4, 3.0), (6, 2.0), (8, 1.0)]
    assert events["t2i/recall_at_1"] == [(4, 0.5), (6, 0.75)]
    assert b"steps_per_loop: 1000" in events["config"][0][1]


def test_a_run_without_new_metrics_writes_no_events(tmp_path):
    with start_trackers(["tensorboard"], tmp_path, CONFIG):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["trackers.json"]


def test_a_run_that_starts_again_logs_all_its_steps(tmp_path):
    for loss in (4.0, 3.0):
        forget_tracked_runs(tmp_path)
        with start_trackers(["tensorboard"], tmp_path, CONFIG) as trackers:
            trackers.log(2, {"loss": loss})
    assert read_events(tmp_path / "tensorboard")["loss"] == [(2, 4.0), (2, 3.0)]

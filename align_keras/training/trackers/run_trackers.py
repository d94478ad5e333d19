"""The trackers of a run: start, metrics in order, failures and end."""

import collections
import importlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from align_keras.training.trackers.tracker import RunStatus, TrackedRun, Tracker
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json
from align_keras.utils.progress import say

# Class of each tracker in `trainer.callbacks`, in the module `NAME_tracker`.
_CLASSES = {
    "tensorboard": "TensorBoardTracker",
    "mlflow": "MLflowTracker",
    "wandb": "WandbTracker",
    "trackio": "TrackioTracker",
}
_STATE_FILE = "trackers.json"
# Seconds between two attempts to send metrics to a tracker that fails. An attempt may
# take a minute, in which the training waits.
RETRY_SECONDS = 120.0
# Names of environment variables whose values are secrets, such as WANDB_API_KEY.
_SECRET_NAME = re.compile("KEY|TOKEN|PASSWORD|SECRET")
# Characters. Shorter values occur in other words by chance.
_MIN_SECRET = 6
# Characters. Longer texts of other libraries are truncated.
_MAX_REASON = 300


def start_trackers(
    names: Iterable[str],
    directory: pathlib.Path,
    config: Mapping[str, Any],
    lines: Sequence[Mapping[str, float]] = (),
    *,
    only_known_runs: bool = False,
) -> "RunTrackers":
    """Starts the run in each tracker, or continues it.

    Args:
        names: names of trackers, as in `trainer.callbacks`.
        directory: `pathlib.Path`, folder of the run. The file `trackers.json` in it has
            the ids of the run in the trackers.
        config: dict, the whole configuration as nested dicts.
        lines: lines of `metrics.jsonl`. Each tracker receives the lines that it lacks.
        only_known_runs: bool, True to continue the runs that have an id, with a warning
            for those that fail. Other trackers are then omitted.

    Returns:
        `RunTrackers`, a context manager that ends the run in each tracker.

    Raises:
        InputError: if a tracker fails, for example because of a wrong login.
    """
    directory = directory.absolute()
    state = read_json(directory / _STATE_FILE)
    trackers = RunTrackers(directory, state)
    for name in names:
        entry = state.get(name, {})
        if only_known_runs and entry.get("run_id") is None:
            continue
        run = TrackedRun(
            name=directory.name,
            directory=directory,
            config=dict(config),
            project=config["trainer"]["project"],
            run_id=entry.get("run_id"),
        )
        tracker_class = _tracker_class(name)
        try:
            tracker = tracker_class(run)
        except Exception as error:
            message = (
                f"trainer.callbacks must contain trackers that can start. Received: "
                f"{name}, which failed with: {_reason(error)}. {tracker_class.remedy} "
                f"To run without {name}, remove it from trainer.callbacks."
            )
            if run.run_id is not None:
                message += (
                    f" To start a new run instead of {run.run_id}, remove {name} from "
                    f"{directory / _STATE_FILE}."
                )
            if only_known_runs:
                say(f"warning: {message}")
                continue
            trackers.finish("failed")
            raise InputError(message) from None
        trackers.add(name, tracker, entry.get("step", 0))
    for step, values in _steps(lines).items():
        trackers.log(step, values)
    return trackers


def forget_tracked_runs(directory: pathlib.Path) -> None:
    """Removes the ids of the runs, so that new runs start in the trackers."""
    (directory / _STATE_FILE).unlink(missing_ok=True)


def _tracker_class(name: str) -> type[Tracker]:
    module = importlib.import_module(f"{__package__}.{name}_tracker")
    return getattr(module, _CLASSES[name])


def _steps(lines: Iterable[Mapping[str, float]]) -> dict[int, dict[str, float]]:
    """Merges the lines of each step."""
    steps: dict[int, dict[str, float]] = {}
    for line in lines:
        values = {name: value for name, value in line.items() if name != "step"}
        steps.setdefault(int(line["step"]), {}).update(values)
    return steps


def _reason(error: Exception) -> str:
    """Returns the message of an error in one line, without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET:
            text = text.replace(value, "***")
    return text[:_MAX_REASON].rstrip(".")


class RunTrackers:
    """Trackers of a run. A tracker that fails does not stop the training.

    Metrics that a tracker fails to receive are sent with those of the next step. A
    resumed run sends the remaining ones.

    Args:
        directory: `pathlib.Path`, folder of the run.
        state: dict from the name of a tracker to its `run_id` and the last `step` that
            it has received, the content of `trackers.json`.
    """

    def __init__(
        self, directory: pathlib.Path, state: Mapping[str, Mapping] | None = None
    ) -> None:
        self._path = directory / _STATE_FILE
        self._state = dict(state or {})
        self._feeds: list[_Feed] = []

    def add(self, name: str, tracker: Tracker, step: int) -> None:
        """Adds a tracker that has received the metrics up to a step."""
        self._feeds.append(_Feed(name, tracker, step))
        self._save_state()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends all metrics of a step. Steps must be in increasing order."""
        for feed in self._feeds:
            feed.log(step, values)
        self._save_state()

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        """Stores a file with the run, as `Tracker.log_file`."""
        for feed in self._feeds:
            feed.log_file(path, kind)

    def finish(self, status: RunStatus) -> None:
        """Ends the run in each tracker."""
        for feed in self._feeds:
            feed.finish(status)
        self._save_state()

    def __enter__(self) -> "RunTrackers":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.finish("finished")
        elif issubclass(error_type, SystemExit | KeyboardInterrupt):
            self.finish("killed")
        else:
            self.finish("failed")

    def _save_state(self) -> None:
        entries = {
            feed.name: {"run_id": feed.tracker.run_id, "step": feed.safe_step()}
            for feed in self._feeds
        }
        if not entries.items() <= self._state.items():
            self._state.update(entries)
            with atomic_write(self._path) as file:
                json.dump(self._state, file, indent=1)


class _Feed:
    """Metrics on their way to one tracker.

    Args:
        name: str, name of the tracker.
        tracker: `Tracker`.
        step: int, last step that the tracker has received.
    """

    def __init__(self, name: str, tracker: Tracker, step: int) -> None:
        self.name = name
        self.tracker = tracker
        self._last_step = step
        self._safe_step = step
        self._waiting: collections.deque[tuple[int, Mapping]] = collections.deque()
        # Time and step of metrics that the tracker may still have in memory.
        self._sent: collections.deque[tuple[float, int]] = collections.deque()
        self._is_failing = False
        self._retry_time = 0.0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step, after those that are waiting."""
        if step <= self._last_step:
            # A run that was killed repeats the steps after its last checkpoint.
            return
        self._last_step = step
        self._waiting.append((step, values))
        if time.monotonic() >= self._retry_time:
            self._send()

    def _send(self) -> None:
        """Sends the waiting metrics up to the first failure."""
        while self._waiting:
            step, values = self._waiting[0]
            reason = self._attempt(self.tracker.log, step, values)
            if reason is not None:
                if not self._is_failing:
                    say(
                        f"warning: {self.name} fails to log step {step} ({reason}). "
                        "The training continues, and the metrics are sent later."
                    )
                self._is_failing = True
                self._retry_time = time.monotonic() + RETRY_SECONDS
                return
            self._is_failing = False
            self._waiting.popleft()
            self._sent.append((time.monotonic(), step))

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        """Stores a file with the run in the tracker."""
        reason = self._attempt(self.tracker.log_file, path, kind)
        if reason is not None:
            say(f"warning: {self.name} fails to store {path.name} ({reason}).")

    def _attempt(self, method: Callable[..., None], *arguments: Any) -> str | None:
        """Calls a method of the tracker. Returns the reason of a failure, or None."""
        try:
            method(*arguments)
        except Exception as error:
            return _reason(error)
        return None

    def safe_step(self) -> int:
        """Returns the last step that the tracker keeps if the process is killed."""
        limit = time.monotonic() - self.tracker.flush_seconds
        while self._sent and self._sent[0][0] <= limit:
            self._safe_step = self._sent.popleft()[1]
        return self._safe_step

    def finish(self, status: RunStatus) -> None:
        """Ends the run in the tracker."""
        self._send()
        reason = self._attempt(self.tracker.finish, status)
        if reason is not None:
            say(f"warning: {self.name} fails to end the run ({reason}).")
        elif self._sent:
            self._safe_step = self._sent.pop()[1]
            self._sent.clear()
        if self._waiting:
            say(
                f"warning: {self.name} lacks the metrics of {len(self._waiting)} "
                "steps, which are in metrics.jsonl. Run the same command again to send "
                "them."
            )

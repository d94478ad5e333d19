"""Interface of an experiment tracker."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

# Project of runs whose configuration and environment name no project.
DEFAULT_PROJECT = "align-keras"
# State of a run at its end. A killed run can be resumed.
RunStatus = Literal["finished", "failed", "killed"]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """Description of a run for a tracker.

    Attributes:
        name: str, name of the run, which is the name of its folder.
        directory: `pathlib.Path`, folder of the run.
        config: dict, the whole configuration as nested dicts.
        project: str, project of the run, or None for the project in the tracker's
            environment variable.
        run_id: str, id of the run in the tracker, or None for a new run.
    """

    name: str
    directory: pathlib.Path
    config: dict[str, Any]
    project: str | None = None
    run_id: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Returns the configuration as a dict from dotted key to value."""
        return dict(_flat(self.config))


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            items += _flat(value, f"{prefix}{name}.")
        else:
            items.append((f"{prefix}{name}", value))
    return items


class Tracker(Protocol):
    """Recorder of one run.

    The constructor takes a `TrackedRun`. It starts a new run in the tracker, or
    continues the run with the id `TrackedRun.run_id`. Any method may raise any
    exception. `RunTrackers` prints it as a warning, and the training continues. Nothing
    may be printed on stdout, where the commands print results.

    Attributes:
        remedy: str, advice in the message if the constructor fails, as a sentence.
        flush_seconds: float, number of seconds for which a tracker may keep metrics in
            memory. A killed process loses them, so a resumed run sends them again.
        run_id: str, id of the run in the tracker, or None if it has no ids.
    """

    remedy: ClassVar[str]
    flush_seconds: ClassVar[float]
    run_id: str | None

    def __init__(self, run: TrackedRun) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the metrics of a step."""

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        """Stores a file with the run.

        Args:
            path: `pathlib.Path`, file.
            kind: str, kind of the file, such as `"report"`.
        """

    def finish(self, status: RunStatus) -> None:
        """Sends everything and ends the run in the tracker."""

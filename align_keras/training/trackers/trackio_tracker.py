"""Metrics, configuration and files of a run in Trackio."""

import contextlib
import pathlib
import secrets
import sys
from collections.abc import Mapping
from typing import ClassVar

from align_keras.training.trackers.tracker import (
    DEFAULT_PROJECT,
    RunStatus,
    TrackedRun,
)


class TrackioTracker:
    """Run in Trackio.

    Trackio's environment variables, such as TRACKIO_SPACE_ID and TRACKIO_DIR, choose a
    Space or a folder.
    """

    remedy: ClassVar[str] = "Check TRACKIO_SPACE_ID and HF_TOKEN."
    # Trackio sends its metrics from a thread.
    flush_seconds: ClassVar[float] = 60.0

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        # Trackio finds a run by its name, so two folders with one name must differ.
        self.run_id = run.run_id or f"{run.name}-{secrets.token_hex(2)}"
        with contextlib.redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=run.project or DEFAULT_PROJECT,
                name=self.run_id,
                config=run.parameters(),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        self._run.log_artifact(path, name=f"{self.run_id}-{kind}", type=kind)

    def finish(self, status: RunStatus) -> None:
        # The method of the run would let Trackio finish it again at exit.
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()

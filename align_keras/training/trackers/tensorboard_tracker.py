"""Metrics and configuration of a run in TensorBoard."""

import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf

from align_keras.config.yaml_source import dump_yaml
from align_keras.training.trackers.tracker import RunStatus, TrackedRun


class TensorBoardTracker:
    """Event files in the folder `tensorboard/` of a run. It stores no other files."""

    remedy: ClassVar[str] = "Check the permissions of the folder."
    flush_seconds: ClassVar[float] = 0.0

    def __init__(self, run: TrackedRun) -> None:
        self.run_id = None
        self._run = run
        self._writer: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            # A finished run that is started again gets no empty event file.
            self._writer = tf.summary.create_file_writer(
                str(self._run.directory / "tensorboard")
            )
            self._write_config(step)
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def _write_config(self, step: int) -> None:
        lines = dump_yaml(self._run.config).splitlines()
        # Markdown shows indented lines as code.
        text = "\n".join(f"    {line}" for line in lines)
        with self._writer.as_default(step):
            tf.summary.text("config", text)

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        pass

    def finish(self, status: RunStatus) -> None:
        if self._writer is not None:
            self._writer.close()

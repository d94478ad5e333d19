"""Metrics, configuration and files of a run in Weights & Biases."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import ClassVar

from align_keras.training.trackers.tracker import (
    DEFAULT_PROJECT,
    RunStatus,
    TrackedRun,
)
from align_keras.utils.addresses import redacted

# Seconds that the end of a run waits for uploads. By default, wandb waits forever.
_FINISH_TIMEOUT = "600"


class WandbTracker:
    """Run in Weights & Biases.

    The environment variables of wandb, such as WANDB_MODE and WANDB_ENTITY, choose the
    server and the account. A run of the caller that is active stays unchanged.
    """

    remedy: ClassVar[str] = (
        "Run `wandb login`, check the network, or set WANDB_MODE=offline."
    )
    # wandb writes its file every 15 seconds.
    flush_seconds: ClassVar[float] = 60.0

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", _FINISH_TIMEOUT)
        import wandb

        self._wandb = wandb
        with _redacted_arguments():
            self._run = wandb.init(
                project=run.project or os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT),
                name=os.environ.get("WANDB_NAME", run.name),
                id=run.run_id,
                resume="allow" if run.run_id else None,
                config=run.config,
                allow_val_change=True,
                reinit="create_new",
            )
        self.run_id: str = self._run.id
        # A resumed run may repeat earlier steps, which wandb's own counter forbids.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        artifact = self._wandb.Artifact(f"run-{self.run_id}-{kind}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self, status: RunStatus) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


@contextlib.contextmanager
def _redacted_arguments() -> Iterator[None]:
    """Hides the passwords in the command line, which wandb sends to its server."""
    arguments = sys.argv
    sys.argv = [redacted(argument) for argument in arguments]
    try:
        yield
    finally:
        sys.argv = arguments

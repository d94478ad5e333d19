"""Metrics, configuration and files of a run in MLflow."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from align_keras.training.trackers.tracker import (
    DEFAULT_PROJECT,
    RunStatus,
    TrackedRun,
)

# MLflow accepts this number of parameters in a request.
_PARAMETERS_PER_REQUEST = 100
# Number and seconds of the requests to a server that does not answer. MLflow's defaults
# would stop the training for minutes.
_REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflowTracker:
    """Run in MLflow.

    MLflow's environment variables, such as MLFLOW_TRACKING_URI, choose the server. An
    active run of the caller becomes the parent of this run.
    """

    remedy: ClassVar[str] = "Check MLFLOW_TRACKING_URI and the login of the server."
    flush_seconds: ClassVar[float] = 0.0

    def __init__(self, run: TrackedRun) -> None:
        for name, value in _REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        import mlflow

        self._mlflow = mlflow
        active_run = mlflow.start_run(
            run_id=run.run_id,
            experiment_id=None if run.run_id else self._experiment_id(run.project),
            run_name=None if run.run_id else run.name,
            nested=mlflow.active_run() is not None,
        )
        self.run_id: str = active_run.info.run_id
        try:
            self._log_parameters(run.parameters())
            # MLflow does not replace the parameters of a resumed run, but its files.
            self.log_file(run.directory / "params.yaml", "config")
        except BaseException:
            mlflow.end_run("FAILED")
            raise

    def _experiment_id(self, project: str | None) -> str | None:
        """Returns the id of the experiment, or None for that of the environment."""
        names = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
        if project is None and any(os.environ.get(name) for name in names):
            return None
        name = project or DEFAULT_PROJECT
        experiment = self._mlflow.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        return self._mlflow.create_experiment(name)

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Logs the parameters that the run does not have yet."""
        logged = self._mlflow.get_run(self.run_id).data.params
        missing = [(key, parameters[key]) for key in parameters if key not in logged]
        for start in range(0, len(missing), _PARAMETERS_PER_REQUEST):
            part = missing[start : start + _PARAMETERS_PER_REQUEST]
            self._mlflow.log_params(dict(part), run_id=self.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step, run_id=self.run_id)

    def log_file(self, path: pathlib.Path, kind: str) -> None:
        self._mlflow.log_artifact(str(path), run_id=self.run_id)

    def finish(self, status: RunStatus) -> None:
        # MLflow prints the address of the run.
        with contextlib.redirect_stdout(sys.stderr):
            self._mlflow.end_run(status.upper())

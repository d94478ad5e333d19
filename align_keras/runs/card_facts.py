"""Description of the data and the newest evaluation of a run for its model card."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

_DATA_FILE = "data.json"


def save_data_notes(directory: str | os.PathLike, notes: Mapping[str, Mapping]) -> None:
    """Saves the `summary` of each corpus, a list of lines, in the folder of a run."""
    lines = {name: list(note.get("summary", [])) for name, note in notes.items()}
    with atomic_write(pathlib.Path(directory) / _DATA_FILE) as file:
        json.dump(lines, file, indent=1)


def about_run(
    directory: str | os.PathLike, command: str | None = None
) -> dict[str, Any]:
    """Returns the arguments of `model_card` that describe the origin of a model."""
    directory = pathlib.Path(directory)
    origin: dict[str, Any] = {
        "source": f"`{command or directory.name}`",
        "data": None,
        "evaluation": None,
    }
    if (directory / _DATA_FILE).exists():
        origin["data"] = read_json(directory / _DATA_FILE)
    if (directory / "metrics.jsonl").exists():
        # This import is not at the top, because it loads Keras.
        from align_keras.training.metrics_log import MetricsLog

        newest = MetricsLog(directory / "metrics.jsonl").newest()
        # The card shows recall, but not the speed of the training.
        origin["evaluation"] = {
            name: value
            for name, value in newest.items()
            if "recall_at" in name or name.endswith(("/queries", "/candidates"))
        }
    return origin


def read_evaluation(
    evaluation: str | os.PathLike | Mapping[str, Any], model: Any
) -> dict[str, Any]:
    """Returns a checked evaluation of a model.

    Args:
        evaluation: result of `align_keras.evaluate`, or path of a file with the output
            of `align-keras evaluate --json`.
        model: `ALIGN`, or the name of the model to which a file must belong.
    """
    if isinstance(evaluation, Mapping):
        _check_report(evaluation, "a dict")
        return dict(evaluation)
    report = read_json(pathlib.Path(evaluation))
    _check_report(report, evaluation)
    is_name = isinstance(model, str | os.PathLike)
    if is_name and os.path.realpath(report["model"]) != os.path.realpath(model):
        raise InputError(
            f"--evaluation must belong to --model {model}. Received: {evaluation}, an "
            f"evaluation of {report['model']}. Evaluate this model, or leave the "
            "option out."
        )
    return report


def _check_report(report: Mapping[str, Any], received: object) -> None:
    """Raises unless a value has the keys of the result of `align_keras.evaluate`."""
    if not {"model", "protocol", "data", "metrics"} <= report.keys():
        raise InputError(
            "--evaluation must be the output of `align-keras evaluate … --json`. "
            f"Received: {received}. Write the file again."
        )

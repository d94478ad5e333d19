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
        data = read_json(directory / _DATA_FILE)
        for lines in data.values():
            if not isinstance(lines, list) or {type(line) for line in lines} - {str}:
                raise InputError(
                    f"{directory / _DATA_FILE} must contain a list of lines for each "
                    "corpus. Received: other content. Remove the file to write the "
                    "card without a description of the data."
                )
        origin["data"] = data
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
        check_report(evaluation, "a dict")
        return dict(evaluation)
    return _read_file(
        evaluation, model if isinstance(model, str | os.PathLike) else None
    )


def _read_file(
    path: str | os.PathLike, model: str | os.PathLike | None
) -> dict[str, Any]:
    """Reads an evaluation.

    Args:
        path: path of the file.
        model: name of the model to which the file must belong, or None for a model in
            memory.
    """
    try:
        report = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"--evaluation must be a readable file. Received: {path} ({reason}). "
            "Check the path."
        ) from None
    except ValueError:
        report = None
    check_report(report, path)
    if model is not None and not _is_same_model(report["model"], model):
        raise InputError(
            f"--evaluation must belong to --model {model}. Received: {path}, an "
            f"evaluation of {report['model']}. Evaluate this model, or leave the "
            "option out."
        )
    return report


def check_report(report: Any, received: object) -> None:
    """Raises unless a value has the form of the result of `align_keras.evaluate`.

    Args:
        report: value to check.
        received: description of the value for the message, such as its path.
    """
    try:
        slices = report.get("slices", {})
        fits = (
            all(isinstance(report[name], str) for name in ("model", "protocol", "data"))
            and _are_metrics(report["metrics"])
            and _are_metrics(slices)
            and _have_intervals(slices)
            and ("slices" in report) == ("slice_by" in report)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            "--evaluation must be the output of `align-keras evaluate … --json`. "
            f"Received: {received}. Write the file again."
        )


def _is_same_model(first: str, second: str | os.PathLike) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def _are_metrics(values: Mapping[str, Any]) -> bool:
    # A bool is an int in Python, but it is not a valid metric.
    return {type(value) for value in values.values()} <= {int, float, type(None)}


def _have_intervals(slices: Mapping[str, Any]) -> bool:
    names = {name.rpartition("]")[0] for name in slices}
    parts = ("", "/low", "/high", "/items")
    return set(slices) == {f"{name}]{part}" for name in names for part in parts}

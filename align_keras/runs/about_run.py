"""What a model card tells of a run: its data and its evaluation so far."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

_DATA_FILE = "data.json"


def save_data_notes(directory: str | os.PathLike, notes: Mapping[str, Mapping]) -> None:
    """Keeps in a run's folder the `summary` of each corpus, a list of lines."""
    lines = {name: list(note.get("summary", [])) for name, note in notes.items()}
    with atomic_write(pathlib.Path(directory) / _DATA_FILE) as file:
        json.dump(lines, file, indent=1)


def about_run(
    directory: str | os.PathLike, command: str | None = None
) -> dict[str, Any]:
    """Returns what is known of a model's origin, as `model_card` takes it."""
    directory = pathlib.Path(directory)
    about: dict[str, Any] = {
        "source": f"`{command or directory.name}`",
        "data": None,
        "evaluation": None,
    }
    if (directory / _DATA_FILE).exists():
        data = read_json(directory / _DATA_FILE)
        for lines in data.values():
            if not isinstance(lines, list) or {type(line) for line in lines} - {str}:
                raise InputError(
                    f"{directory / _DATA_FILE} must hold lists of lines about corpora; "
                    "remove it, and the card will say nothing of the data."
                )
        about["data"] = data
    if (directory / "metrics.jsonl").exists():
        # Only here, since it imports Keras.
        from align_keras.training.metrics_log import MetricsLog

        newest = MetricsLog(directory / "metrics.jsonl").newest()
        # Not how fast it was trained.
        about["evaluation"] = {
            name: value
            for name, value in newest.items()
            if "recall_at" in name or name.endswith(("/queries", "/candidates"))
        }
    return about


def read_evaluation(path: str | os.PathLike, model: str | os.PathLike) -> dict:
    """Reads what `align-keras evaluate --json` printed of just this model."""
    try:
        report = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        slices = report.get("slices", {})
        fits = (
            all(isinstance(report[name], str) for name in ("model", "protocol", "data"))
            and _are_metrics(report["metrics"])
            and _are_metrics(slices)
            and _have_intervals(slices)
            and ("slices" in report) == ("slice_by" in report)
        )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"--evaluation must be a file that can be read, received {path}: {reason}; "
            "check the path."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            "--evaluation must be what `align-keras evaluate --protocol … --json` "
            f"printed, received {path}; write it anew."
        )
    if os.path.realpath(report["model"]) != os.path.realpath(model):
        raise InputError(
            f"--evaluation must be of --model {model}, received {path}, which is of "
            f"{report['model']}; evaluate this model, or leave it out."
        )
    return report


def _are_metrics(values):
    # A bool is an int, but no metric.
    return {type(value) for value in values.values()} <= {int, float, type(None)}


def _have_intervals(slices):
    names = {name.rpartition("]")[0] for name in slices}
    parts = ("", "/low", "/high", "/items")
    return set(slices) == {f"{name}]{part}" for name in names for part in parts}

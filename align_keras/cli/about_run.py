"""What a model card tells of a run: its data and its evaluation so far."""

import json
import pathlib

from align_keras.utils.files import atomic_write

_DATA_FILE = "data.json"


def save_data_notes(directory, notes):
    """Keeps in a run's folder what its corpora hold and have dropped.

    Args:
        directory: str or `pathlib.Path`, the run's folder.
        notes: dict, name of the corpus → dict whose `summary` is a list of lines.
    """
    lines = {name: list(own.get("summary", [])) for name, own in notes.items()}
    with atomic_write(pathlib.Path(directory) / _DATA_FILE) as file:
        json.dump(lines, file, indent=1)


def about_run(directory, command=None):
    """Returns what is known of a model's origin, as `model_card` takes it.

    Args:
        directory: str or `pathlib.Path`; a run's folder, or another, of which
            nothing is known.
        command: str, what made the run, or None for the folder's name.

    Returns:
        dict of `source`, `data` and `evaluation`.
    """
    directory = pathlib.Path(directory)
    about = {
        "source": f"`{command or directory.name}`",
        "data": None,
        "evaluation": None,
    }
    if (directory / _DATA_FILE).exists():
        text = (directory / _DATA_FILE).read_text(encoding="utf-8")
        about["data"] = json.loads(text)
    if (directory / "metrics.jsonl").exists():
        # Only here, since it imports Keras.
        from align_keras.training.metrics_log import MetricsLog

        newest = {}
        for line in MetricsLog(directory / "metrics.jsonl").read():
            newest |= line
        # Not how fast it was trained.
        about["evaluation"] = {
            name: value for name, value in newest.items() if "recall_at" in name
        }
    return about

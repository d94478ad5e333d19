"""Files of a run that its trackers store."""

import pathlib
import tempfile

from align_keras.export.model_card import model_card
from align_keras.models import ALIGN
from align_keras.runs.about_run import about_run
from align_keras.training.trackers import RunTrackers


def log_run_files(
    trackers: RunTrackers, directory: pathlib.Path, model: ALIGN, command: str
) -> None:
    """Stores the model card of a run, and its report if it exists, in the trackers.

    Args:
        trackers: `RunTrackers`.
        directory: `pathlib.Path`, folder of the run.
        model: trained `ALIGN`.
        command: str, command that the model card shows.
    """
    report = directory / "report.html"
    if report.exists():
        trackers.log_file(report, "report")
    with tempfile.TemporaryDirectory() as folder:
        card = pathlib.Path(folder) / "README.md"
        text = model_card(model, **about_run(directory, command))
        card.write_text(text, encoding="utf-8")
        trackers.log_file(card, "model-card")

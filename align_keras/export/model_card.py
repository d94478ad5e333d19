"""Model cards, the README files of exports."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from align_keras.export.card_metadata import without_folders

SIGNATURES = (
    "`signatures.json` next to each `saved_model.pb` describes its inputs and outputs."
)


def model_card(
    model: Any,
    *,
    weights: str | None = None,
    source: str | None = None,
    data: dict[str, list[str]] | None = None,
    evaluation: dict[str, float] | None = None,
    license: str | None = None,
    described: str = SIGNATURES,
    measured: Sequence[Mapping[str, Any]] = (),
    repository: str | None = None,
) -> str:
    """Returns the text of a model card.

    Args:
        model: `ALIGN`, or `Embedder` of an exported model.
        weights: dtype of the stored weights, or None if no weight was converted.
        source: preset or run folder of the exported model, or None.
        data: dict from names of training sets to notes about each of them.
        evaluation: dict from names of metrics to their values during training.
        license: terms of the weights, or None.
        described: sentence that names the description of inputs and outputs.
        measured: reports that `align-keras evaluate --json` printed.
        repository: name on the Hugging Face Hub with which the model is opened, or
            None.

    References:
        Jia et al. 2021, section 10. Mitchell et al. 2019, "Model cards for model
        reporting".
    """
    parts = _parts(model) | {"stored weights": weights or "as trained"}
    folders = [os.path.dirname(name) for name in data or () if os.path.isabs(name)]
    if source is not None:
        parts = {"from": _without(folders, source)} | parts
    if license is not None:
        parts["license"] = " ".join(license.split())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        keep_trailing_newline=True,
    )
    environment.filters.update(title=_title, cell=_cell, number=_number)
    return environment.get_template("model_card.md.j2").render(
        parts=parts,
        described=described,
        data={
            without_folders(name): [_without(folders, note) for note in notes]
            for name, notes in (data or {}).items()
        },
        evaluation=evaluation,
        measured=[
            {**report, "data": without_folders(report["data"])} for report in measured
        ],
        repository=repository,
    )


def _without(folders: Sequence[str], text: str) -> str:
    """Removes folders from the paths in a text."""
    for folder in folders:
        text = text.replace(os.path.join(folder, ""), "")
    return text


def _parts(model: Any) -> dict[str, str]:
    """Returns a dict from the name of each part of a model to its description."""
    size = f"images of {model.image_size} × {model.image_size} pixels"
    if not hasattr(model, "image_encoder"):
        return {
            "image tower": size,
            "embeddings": f"{model.dimension} numbers, of unit length",
            "runtime": model.runtime,
        }
    image = model.image_encoder
    text = model.text_encoder
    return {
        "image tower": f"{image.count_params():,} parameters, {size}",
        "text tower": f"{text.count_params():,} parameters, "
        f"{model.tokenizer.sequence_length} of {len(model.tokenizer.vocabulary):,} "
        f"tokens, normalized as {model.tokenizer.normalization}",
        "embeddings": f"{image.output_shape[-1]} numbers, of unit length",
        "temperature": f"{float(model.temperature):.4g}",
    }


def _title(report: dict[str, Any]) -> str:
    """Returns the heading of an evaluation report."""
    splits = [
        f"{key} {report[key]}" for key in ("split", "train_split") if key in report
    ]
    return ", ".join([f"{report['protocol']} on {report['data']}", *splits])


def _number(value: float | None) -> str:
    """Returns a number with four significant digits, or a dash for None."""
    return "–" if value is None else f"{value:.4g}"


def _cell(text: object) -> str:
    """Returns text as one line with escaped bars, for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")

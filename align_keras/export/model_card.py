"""The model card that lies beside an export."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

SIGNATURES = "`signatures.json` beside each `saved_model.pb` says what it serves."


def model_card(
    model: Any,
    *,
    weights: str | None = None,
    source: str | None = None,
    data: dict[str, list[str]] | None = None,
    evaluation: dict[str, float] | None = None,
    license: str | None = None,
    described: str = SIGNATURES,
    measured: Sequence[dict] = (),
) -> str:
    """Writes down what a model is, was trained on, can do, and must not be used for.

    `data` maps sets of pairs to lines, `evaluation` metrics to values;
    `measured` are dicts of `align-keras evaluate --json`. Jia et al. 2021, section 10;
    Mitchell et al. 2019, "Model cards for model reporting".
    """
    image, text = model.image_encoder, model.text_encoder
    parts = {
        "image tower": f"{image.count_params():,} parameters, images of "
        f"{model.image_size} × {model.image_size} pixels",
        "text tower": f"{text.count_params():,} parameters, "
        f"{model.tokenizer.sequence_length} of {len(model.tokenizer.vocabulary):,} "
        f"tokens, normalized as {model.tokenizer.normalization}",
        "embeddings": f"{image.output_shape[-1]} numbers, of unit length",
        "temperature": f"{float(model.temperature):.4g}",
        "stored weights": weights or "as trained",
    }
    if source is not None:
        parts = {"from": source} | parts
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
        data=data,
        evaluation=evaluation,
        measured=measured,
    )


def _title(report):
    splits = [
        f"{key} {report[key]}" for key in ("split", "train_split") if key in report
    ]
    return ", ".join([f"{report['protocol']} on {report['data']}", *splits])


def _number(value):
    return "–" if value is None else f"{value:.4g}"


def _cell(text):
    """Text of the user's data as a table takes it: one line, no bars."""
    return " ".join(str(text).split()).replace("|", "\\|")

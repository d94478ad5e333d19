"""The model card that lies beside an export."""

from collections.abc import Sequence
from typing import Any

# After the paper's section 10.
_LIMITS = """\
- The paper asks for further analysis of the data and of the model before any use in
  practice; none is made by exporting it.
- Captions from the web may hold harmful text, which can reinforce such harms.
- Stereotypes of the data are reinforced unless it is balanced. Look at the metrics of
  groups of your data: `align-keras evaluate --slice-by COLUMN --json`, which
  `align-keras export --evaluation FILE` puts into this card.
- Religious and cultural items may be mislabeled; test them, and train on better pairs.
- The distribution of people, and of clothing, food and art, may skew what the model
  finds. Analyze and balance before production.
- It finds what is near, also where nothing fits: a score is no probability that a
  caption is true."""
_PROHIBITED = """\
Surveillance and other harmful uses are prohibited, as are decisions about people by
what the model says of their images."""

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

    `data` maps sets of pairs to lines, `evaluation` metrics to values before
    quantization; `measured` are dicts of `align-keras evaluate --json`. Jia et al.
    2021, section 10; Mitchell et al. 2019, "Model cards for model reporting".
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
    lines = ["# Model card", "", "An ALIGN (Jia et al. 2021, arXiv 2102.05918):", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in parts.items()]
    lines += ["", described]
    lines += ["", "## Data", "", *_data_lines(data)]
    lines += ["", "## Evaluation so far", ""]
    if evaluation or not measured:
        lines += _evaluation_lines(evaluation)
    for report in measured:
        lines += _report_lines(report)
    lines += ["", "## Limits", "", _LIMITS, "", "## Prohibited uses", "", _PROHIBITED]
    return "\n".join(lines) + "\n"


def _data_lines(data):
    if not data:
        return ["Not recorded. Say here what it was trained on before you share it."]
    lines = []
    for name, notes in data.items():
        lines.append(f"- {name}")
        lines += [f"  - {note}" for note in notes]
    return lines


def _evaluation_lines(evaluation):
    if not evaluation:
        return [
            "None recorded. Measure it by `align-keras evaluate --model … --protocol "
            "…`, and write the numbers here before you share it."
        ]
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(evaluation.items())]
    return ["| metric | value |", "|---|---|", *rows]


def _report_lines(report):
    """One protocol's metrics, and below them those of groups."""
    splits = [
        f"{name} {report[name]}" for name in ("split", "train_split") if name in report
    ]
    title = ", ".join([f"{report['protocol']} on {report['data']}", *splits])
    lines = ["", f"### {_cell(title)}", "", "| metric | value |", "|---|---|"]
    for name, value in report["metrics"].items():
        lines.append(f"| {_cell(name)} | {_number(value)} |")
    slices = report.get("slices") or {}
    if slices:
        lines += [
            "",
            f"By `{_cell(report['slice_by'])}`, with 95% bootstrap intervals:",
        ]
        lines += ["", "| metric | value | 95% interval | items |", "|---|---|---|---|"]
    for name in slices:
        if f"{name}/low" in slices:
            value, low, high, items = (
                _number(slices[f"{name}{part}"])
                for part in ("", "/low", "/high", "/items")
            )
            lines.append(f"| {_cell(name)} | {value} | {low}–{high} | {items} |")
    return lines


def _number(value):
    return "–" if value is None else f"{value:.4g}"


def _cell(text):
    """Text of the user's data as a table takes it: one line, no bars."""
    return " ".join(str(text).split()).replace("|", "\\|")

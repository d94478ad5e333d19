"""Metadata at the top of a model card, which the Hugging Face Hub reads."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

LIBRARY = "align-keras"
PIPELINE = "zero-shot-image-classification"
TAGS = ("align", "keras", "image-text-retrieval")
# Kind of each evaluation protocol on the Hub. A protocol without an entry has its own
# name.
_TASKS = {
    "retrieval": "image-text-retrieval",
    "cxc_retrieval": "image-text-retrieval",
    "multi30k": "image-text-retrieval",
    "zero_shot": PIPELINE,
    "knn": "image-classification",
    "linear_probe": "image-classification",
    "imagenet_frozen": "image-classification",
    "imagenet_full": "image-classification",
    "fine_grained": "image-classification",
    "vtab": "image-classification",
    "cxc_similarity": "sentence-similarity",
    "simlex": "sentence-similarity",
}
# Metrics that count items or describe chance.
_NOT_A_SCORE = re.compile(r"(.*/)?(queries\w*|candidates|chance_\w+|\w*images\w*)")


def card_with_metadata(
    card: str,
    name: str,
    *,
    reports: Sequence[Mapping[str, Any]] = (),
    previous: Any = None,
    **chosen: Any,
) -> str:
    """Returns a model card with the metadata that the Hugging Face Hub reads.

    A field of the metadata is the chosen value, that of the card, that of the previous
    card, or a default. The default of `license` is `unknown`, and that of `language` is
    `en`.

    Args:
        card: text of the card, which may have metadata.
        name: name of the model.
        reports: sequence of dicts of `protocol`, `data`, `metrics` and possibly
            `split`, as `align_keras.evaluate` returns them.
        previous: `huggingface_hub.ModelCardData` of the card that the new one replaces,
            or None. Its license, languages and data sets are kept.
        **chosen: fields of `huggingface_hub.ModelCardData`, such as `license`,
            `language` and `datasets`. Empty values are ignored.

    Raises:
        ValueError: if the metadata of the card are not valid.
    """
    from huggingface_hub import ModelCard

    data = _read_metadata(card)
    fallbacks = previous.to_dict() if previous is not None else {}
    for field in ("license", "license_name", "license_link", "language", "datasets"):
        if data.get(field) is None:
            data[field] = fallbacks.get(field)
    for field, value in chosen.items():
        if value:
            data[field] = value
    defaults = {
        "license": "unknown",
        "language": ["en"],
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE,
        "tags": list(TAGS),
    }
    for field, value in defaults.items():
        if not data.get(field):
            data[field] = value
    results = evaluation_results(reports)
    if results:
        data["model_name"] = name
        data["eval_results"] = results
    text = re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)
    # `ModelCard` checks the metadata.
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def without_folders(name: str) -> str:
    """Returns the name of a data set without the folders of this machine.

    A card is published, and an absolute path may contain the name of a person.
    """
    return os.path.basename(name.rstrip("/\\")) if os.path.isabs(name) else name


def license_of(card: str) -> str | None:
    """Returns the license in the metadata of a model card, or None."""
    return _read_metadata(card).get("license")


def evaluation_results(reports: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Returns the scores of reports as a list of `huggingface_hub.EvalResult`."""
    from huggingface_hub import EvalResult

    results = []
    for report in reports:
        task = _TASKS.get(report["protocol"], report["protocol"].replace("_", "-"))
        for metric, value in report["metrics"].items():
            if _NOT_A_SCORE.fullmatch(metric) or value is None or math.isnan(value):
                continue
            result = EvalResult(
                task_type=task,
                task_name=report["protocol"],
                dataset_type=report["data"],
                dataset_name=report["data"],
                dataset_split=report.get("split"),
                metric_type=metric.rpartition("/")[2],
                metric_name=metric,
                metric_value=round(float(value), 6),
            )
            results.append(result)
    return results


def _read_metadata(card: str) -> Any:
    """Returns the metadata of a model card as `huggingface_hub.ModelCardData`."""
    from huggingface_hub import ModelCard, ModelCardData

    # `ModelCard` logs a warning for a card without metadata.
    return ModelCard(card).data if card.startswith("---\n") else ModelCardData()

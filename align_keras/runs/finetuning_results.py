"""Measurements and results of a fine-tuning: recall, factor, index and report."""

import dataclasses
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.data import RetrievalSet
from align_keras.datasets.stamps import STAMPS_DIR, STAMPS_DIR_VARIABLE
from align_keras.evaluation import flatten_captions, mean_recall
from align_keras.evaluation.pair_recall import RetrievalResult, rank_pairs
from align_keras.evaluation.retrieval import normalized_caption
from align_keras.models import ALIGN
from align_keras.protocols.caption_protocols import read_captioned_images
from align_keras.protocols.embedding_cache import image_key
from align_keras.protocols.protocol import Request
from align_keras.reports.examples import changed_queries
from align_keras.reports.finetune_report import (
    CurvePoint,
    recall_changes,
    write_finetune_report,
)
from align_keras.runs.finished_run import Run
from align_keras.runs.results import EXAMPLE_CAPTIONS, choose_example_caption
from align_keras.runs.run_index import write_run_index
from align_keras.training.doctor import FINDINGS_FILE, read_findings
from align_keras.training.interpolation import Weights, interpolate_weights
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

STAMPS = "stamps"
RESULTS_FILE = "finetune.json"


@dataclasses.dataclass(frozen=True)
class OldTask:
    """Pairs on which the loss of former abilities is measured.

    Attributes:
        name: name of the pairs.
        validation: `RetrievalSet` that limits the factor of the interpolation.
        test: `RetrievalSet` that the report measures.
    """

    name: str
    validation: RetrievalSet
    test: RetrievalSet


def read_old_task(
    name: str | None, user_pairs: Sequence[RetrievalSet]
) -> OldTask | None:
    """Reads the pairs of the old task and divides them into two halves.

    Images with a caption of the user's pairs are left out, so that no trained pair is
    measured.

    Args:
        name: table, folder or corpus. None uses the stamps if they are installed.
        user_pairs: all splits of the user's pairs.

    Returns:
        `OldTask`, or None if there are no pairs.
    """
    if name is None:
        folder = os.environ.get(STAMPS_DIR_VARIABLE) or STAMPS_DIR
        if not os.path.isdir(folder):
            say("the old task isn't measured. Set --old-task to measure it")
            return None
        name = STAMPS
    data = read_captioned_images(Request(data=name))
    user_captions = {
        normalized_caption(caption)
        for pairs in user_pairs
        for captions in pairs.captions
        for caption in captions
    }
    rows = [
        row
        for row, captions in enumerate(data.captions)
        if user_captions.isdisjoint(map(normalized_caption, captions))
    ]
    if len(rows) < 2:
        say(f"the old task isn't measured, because your pairs contain all of {name}")
        return None
    halves = [
        RetrievalSet(
            ids=[data.image_ids[row] for row in half],
            images=[data.images[row] for row in half],
            captions=[list(data.captions[row]) for row in half],
            image_keys=[image_key(data.images[row]).hex() for row in half],
        )
        for half in (rows[0::2], rows[1::2])
    ]
    return OldTask(name, *halves)


def measure_recall(model: ALIGN, pairs: RetrievalSet) -> RetrievalResult:
    """Ranks the images and captions of pairs."""
    return rank_pairs(
        model.encode_images(pairs.images),
        pairs.captions,
        model.encode_texts,
        pairs.image_keys,
    )


def interpolation_curve(
    model: ALIGN,
    start: Weights,
    end: Weights,
    factors: Sequence[float],
    validation: RetrievalSet,
    old_validation: RetrievalSet | None,
) -> list[CurvePoint]:
    """Measures the validation pairs for each factor of the interpolation.

    The model has the weights of the last factor afterwards.
    """
    curve = []
    for factor in factors:
        interpolate_weights(model, start, end, factor)
        old_recall = None
        if old_validation is not None:
            old_recall = _recall_at_10(measure_recall(model, old_validation))
        recall = mean_recall(measure_recall(model, validation).metrics)
        curve.append(CurvePoint(factor, recall, old_recall))
    return curve


def _recall_at_10(result: RetrievalResult) -> float:
    names = ("t2i/recall_at_10", "i2t/recall_at_10")
    return float(np.mean([result.metrics[name] for name in names]))


def choose_factor(curve: Sequence[CurvePoint], max_forgetting: float) -> float:
    """Returns the factor with the highest recall of the validation pairs.

    Factors that lower the recall of the old task too much are left out. Among equal
    recalls, the smallest factor is returned.

    Args:
        curve: points in increasing order of their factors, from 0.
        max_forgetting: largest decrease of the recall of the old task.

    Example:

    >>> curve = [CurvePoint(0, 0.2, 0.5), CurvePoint(0.5, 0.4, 0.5)]
    >>> choose_factor([*curve, CurvePoint(1, 0.6, 0.4)], max_forgetting=0.01)
    0.5
    """
    original = curve[0].old_recall
    allowed = [
        point
        for point in curve
        if point.old_recall is None
        or original is None
        # A tolerance for the rounding of means.
        or point.old_recall >= original - max_forgetting - 1e-9
    ]
    return max(allowed, key=lambda point: (point.recall, -point.factor)).factor


def write_finetune_results(
    run: Run,
    *,
    splits: Sequence[RetrievalSet],
    old_task: OldTask | None,
    results: Mapping[str, tuple[Any, Any]],
    curve: Sequence[CurvePoint],
    factor: float,
    stages: Sequence[str],
    notes: Mapping[str, Mapping],
    command: str,
) -> None:
    """Writes the metrics, the search index and the report of a fine-tuning.

    Args:
        run: `Run` with the fine-tuned model.
        splits: pairs for training, validation and test. All images are indexed.
        old_task: `OldTask`, or None.
        results: dict from `"test"` and `"old"` to the `RetrievalResult` before and
            after the training, or to a tuple of None.
        curve: measurements of the interpolation.
        factor: factor that was chosen.
        stages: names of the folders of the stages.
        notes: dict from the name of a corpus to the metadata of its builder.
        command: command of the fine-tuning.
    """
    directory, model = run.directory, run.model
    test = splits[-1]
    before, after = results["test"]
    changes = {"Your test pairs": recall_changes(before.ranks, after.ranks)}
    if old_task is not None:
        old_before, old_after = results["old"]
        name = f"Old task ({old_task.name})"
        changes[name] = recall_changes(old_before.ranks, old_after.ranks)
    history = {
        stage: MetricsLog(directory / "stages" / stage / "metrics.jsonl").read()
        for stage in stages
    }
    _write_metrics(directory, history, after.metrics)
    with atomic_write(directory / RESULTS_FILE) as file:
        content = {
            "factor": factor,
            "curve": [dataclasses.asdict(point) for point in curve],
            "changes": {
                name: [dataclasses.asdict(change) for change in rows]
                for name, rows in changes.items()
            },
        }
        json.dump(content, file, indent=1)

    say("writing the search index and the report")
    images = [image for pairs in splits for image in pairs.images]
    captions = [texts for pairs in splits for texts in pairs.captions]
    ids = [name for pairs in splits for name in pairs.ids]
    others = [image for pairs in splits[:-1] for image in pairs.images]
    embeddings = np.concatenate([model.encode_images(others), after.image_embeddings])
    index = write_run_index(directory, embeddings, ids, captions, images)
    example = choose_example_caption(
        index, test, after.text_embeddings[:EXAMPLE_CAPTIONS]
    )
    findings = [
        finding.as_dict()
        for stage in stages
        for finding in read_findings(directory / "stages" / stage / FINDINGS_FILE) or ()
    ]
    improved, worse = changed_queries(
        before, after, test.images, flatten_captions(test.captions)[0]
    )
    write_finetune_report(
        directory / "report.html",
        command=command,
        parameters=run.config.model_dump(mode="json"),
        sizes={
            name: (len(pairs), sum(map(len, pairs.captions)))
            for name, pairs in zip(
                ("training", "validation", "test"), splits, strict=True
            )
        },
        changes=changes,
        old_task=None if old_task is None else old_task.name,
        curve=curve,
        factor=factor,
        history=history,
        improved=improved,
        worse=worse,
        findings=findings,
        data_notes=notes,
        next_steps=finetune_commands(directory, example),
    )


def _write_metrics(
    directory: pathlib.Path,
    history: Mapping[str, Sequence[Mapping[str, float]]],
    metrics: Mapping[str, float],
) -> None:
    """Writes `metrics.jsonl` with the lines of all stages and the test recall."""
    lines: list[dict[str, float]] = []
    first_step = 0
    for stage_lines in history.values():
        lines += [
            {**line, "step": first_step + int(line["step"])} for line in stage_lines
        ]
        first_step = int(lines[-1]["step"]) if lines else 0
    lines.append({"step": first_step, **metrics})
    with atomic_write(directory / "metrics.jsonl") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def finetune_commands(directory: pathlib.Path, caption: str) -> list[str]:
    """Returns commands that are useful after a fine-tuning.

    Args:
        directory: folder of the run.
        caption: query of the search.
    """
    folder = shlex.quote(str(directory))
    return [
        f"align-keras search --model_dir {folder} {shlex.quote(caption)}",
        f"align-keras index YOUR_IMAGES --model {folder} --index YOUR_INDEX",
        f"align-keras export litert --model {folder} --to {folder}_litert",
        f"align-keras push {folder} YOUR_NAME/YOUR_MODEL",
    ]

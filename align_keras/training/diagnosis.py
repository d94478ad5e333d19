"""Diagnosis of a non-finite step by encoder and pair."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from align_keras.models import ALIGN
from align_keras.models.fit_callbacks import NonFiniteStepError
from align_keras.models.inference import on_replicas
from align_keras.training.checks import Finding
from align_keras.training.strategies import worker_count
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Number of pairs that are embedded at a time.
_ROWS = 32
# Maximum number of pairs or weights that a message names.
_MAX_NAMES = 8


def diagnosed_error(
    error: NonFiniteStepError,
    model: ALIGN,
    make_batches: Callable,
    batch_ids: Callable | None,
    directory: pathlib.Path,
) -> InputError:
    """Writes `diagnosis.json` and returns an error with its summary.

    The file has the keys of an entry of `findings.json`, and those of `diagnose`.

    Args:
        error: `NonFiniteStepError` of the step.
        model: `ALIGN` in the state before the step.
        make_batches: as in `train_model`.
        batch_ids: as in `train_model`.
        directory: folder of the run.
    """
    step = error.step - 1
    count = worker_count(model.distribute_strategy)
    workers: list[dict] = [{}]
    if count > 1:
        workers = [
            {"input_pipeline_id": number, "num_input_pipelines": count}
            for number in range(count)
        ]
    parts = [
        next(make_batches(start_step=step, **worker).as_numpy_iterator())
        for worker in workers
    ]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ids = None
    if batch_ids is not None:
        ids = [name for worker in workers for name in batch_ids(step=step, **worker)]
    diagnosis = diagnose(model, inputs, ids, error)
    finding = Finding(
        "non_finite_step",
        f"{describe_diagnosis(diagnosis)}: {error.problem}",
        error.remedy,
        error.step,
        diagnosis,
    )
    with atomic_write(directory / "diagnosis.json") as file:
        json.dump(finding.as_dict(), file, indent=1)
    return InputError(
        f"{finding} The state before that step is saved. See "
        f"{directory / 'diagnosis.json'} for details."
    )


def diagnose(
    model: ALIGN,
    inputs: Mapping[str, np.ndarray],
    ids: list[str] | None,
    error: NonFiniteStepError,
) -> dict:
    """Searches for the encoder and the pairs that made a step non-finite.

    Args:
        model: `ALIGN` in the state before the step.
        inputs: dict of arrays, the batch of the step.
        ids: the pairs of the batch, or None if they are unknown.
        error: `NonFiniteStepError` of the step.

    Returns:
        dict, the details of the finding in `diagnosis.json`.
    """
    bad_rows: dict[str, np.ndarray] = {}
    towers: dict[str, dict] = {}
    keys = {"image": ("images",), "text": ("token_ids", "padding_mask")}
    for name in keys:
        encoder = getattr(model, f"{name}_encoder")
        tower_inputs = {key: inputs[key] for key in keys[name]}
        rows = np.flatnonzero(~finite_rows(encoder, tower_inputs))
        bad_rows[name] = rows
        paths = [v.path for v in encoder.variables if not np.isfinite(v.numpy()).all()]
        gradient = error.values[f"{name}_gradient_norm"]
        towers[name] = {
            "embeddings_not_finite": len(rows),
            "weights_not_finite": paths[:_MAX_NAMES],
            "gradient_finite": bool(np.isfinite(gradient)),
        }
    bad = sorted({int(row) for rows in bad_rows.values() for row in rows})
    return {
        "reason": str(error),
        "loss_finite": error.loss_is_finite,
        "metrics": {name: str(value) for name, value in error.values.items()},
        "temperature": float(model.temperature),
        "towers": towers,
        "bad_ids": [ids[row] for row in bad] if ids else bad,
        "batch_ids": ids,
    }


def describe_diagnosis(diagnosis: dict) -> str:
    """Returns a summary of the diagnosis, clauses separated by commas."""
    sentences = []
    for name, tower in diagnosis["towers"].items():
        count = tower["embeddings_not_finite"]
        if tower["weights_not_finite"]:
            weights = ", ".join(tower["weights_not_finite"])
            sentences.append(f"weights of the {name} encoder aren't finite ({weights})")
        elif count:
            sentences.append(
                f"the {name} encoder returns {count} embeddings that aren't finite"
            )
        elif diagnosis["loss_finite"] and not tower["gradient_finite"]:
            sentences.append(f"the gradient of the {name} encoder isn't finite")
    if not sentences:
        sentences.append(
            "the embeddings of both encoders are finite at a temperature of "
            f"{diagnosis['temperature']:.3g}"
        )
    bad_ids = diagnosis["bad_ids"]
    batch_ids = diagnosis["batch_ids"]
    if bad_ids:
        sentences.append(f"pairs {join_names(bad_ids)}")
    elif batch_ids:
        sentences.append(f"last batch {join_names(batch_ids)}")
    return ", ".join(sentences)


def join_names(ids: Sequence) -> str:
    """Joins the first names and appends the number of further names."""
    names = ", ".join(str(name) for name in ids[:_MAX_NAMES])
    if len(ids) > _MAX_NAMES:
        names += f" and {len(ids) - _MAX_NAMES} more"
    return names


def finite_rows(encoder: keras.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a bool array (n,), True for rows with a finite embedding in inference."""
    rows = len(next(iter(inputs.values())))
    embed = on_replicas(
        encoder.distribute_strategy,
        lambda part: tf.cast(
            encoder(part.get("images", part), training=False), "float32"
        ),
    )
    finite = []
    for start in range(0, rows, _ROWS):
        part = {name: value[start : start + _ROWS] for name, value in inputs.items()}
        finite.append(np.isfinite(embed(part)).all(axis=1))
    return np.concatenate(finite)

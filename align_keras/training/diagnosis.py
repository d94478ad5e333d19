"""Which tower, which pairs: what can be said of a step that had to be left out."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from align_keras.models import ALIGN
from align_keras.models.contrastive_model import NonFiniteStepError
from align_keras.models.on_replicas import on_replicas
from align_keras.training.strategies import worker_count
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Pairs that are embedded at a time, and named at most.
_ROWS, _NAMED = 32, 8


def explained(
    error: NonFiniteStepError,
    model: ALIGN,
    make_batches: Callable,
    batch_ids: Callable | None,
    directory: pathlib.Path,
) -> InputError:
    """Writes `diagnosis.json`; returns the error that says what it found."""
    step, count = error.step - 1, worker_count(model.distribute_strategy)
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
    with atomic_write(directory / "diagnosis.json") as file:
        json.dump(diagnosis, file, indent=1)
    return InputError(
        f"{describe(diagnosis)}; {error} The state before that step is saved, and "
        f"{directory / 'diagnosis.json'} says more."
    )


def diagnose(
    model: ALIGN,
    inputs: Mapping[str, np.ndarray],
    ids: list[str] | None,
    error: NonFiniteStepError,
) -> dict:
    """Looks for what isn't finite in the step, of `inputs`, that stopped a run."""
    bad_rows, towers = {}, {}
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
            "weights_not_finite": paths[:_NAMED],
            "gradient_finite": bool(np.isfinite(gradient)),
        }
    bad = sorted({int(row) for rows in bad_rows.values() for row in rows})
    return {
        "step": error.step,
        "reason": str(error),
        "loss_finite": error.loss_is_finite,
        "metrics": {name: str(value) for name, value in error.values.items()},
        "temperature": float(model.temperature),
        "towers": towers,
        "bad_ids": [ids[row] for row in bad] if ids else bad,
        "batch_ids": ids,
    }


def describe(diagnosis: dict) -> str:
    """Returns the diagnosis in a sentence or two."""
    sentences = []
    for name, tower in diagnosis["towers"].items():
        count = tower["embeddings_not_finite"]
        if tower["weights_not_finite"]:
            weights = ", ".join(tower["weights_not_finite"])
            sentences.append(f"weights of the {name} encoder aren't finite ({weights})")
        elif count:
            sentences.append(
                f"the {name} encoder gives {count} embeddings that aren't finite"
            )
        elif diagnosis["loss_finite"] and not tower["gradient_finite"]:
            sentences.append(f"the {name} encoder's gradient isn't finite")
    if not sentences:
        sentences.append(
            "both encoders' embeddings are finite; the temperature is "
            f"{diagnosis['temperature']:.3g}"
        )
    bad, ids = diagnosis["bad_ids"], diagnosis["batch_ids"]
    if bad:
        sentences.append(f"pairs {named(bad)}")
    elif ids:
        sentences.append(f"last batch: {named(ids)}")
    return "; ".join(sentences)


def named(ids: Sequence) -> str:
    """Joins the first few names."""
    names = ", ".join(str(name) for name in ids[:_NAMED])
    return names + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")


def finite_rows(encoder: keras.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns bool (n,): whether each row's embedding is finite, in inference."""
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

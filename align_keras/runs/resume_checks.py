"""Checks that a resumed run has the pairs, teachers and vocabulary of its start."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from align_keras.data.stored_pairs import split_size
from align_keras.datasets.fingerprints import pairs_fingerprint
from align_keras.presets.layout import VOCABULARY_ASSET
from align_keras.presets.stored_config import check_vocabulary_file
from align_keras.runs.run_folder import newest_step
from align_keras.text import vocabulary_fingerprint
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

# File of the fingerprints of the inputs of a run.
INPUTS_FILE = "inputs.json"
# Inputs whose fingerprint must not change, and the options that name them.
_FINGERPRINTS = {
    "teacher": "task.distillation.teacher",
    "base_model": "finetune.model",
    "vocabulary": VOCABULARY_ASSET,
}


def pairs_inputs(builder: Any, split: str) -> dict[str, str | int]:
    """Returns the number and the fingerprint of the training pairs."""
    return {
        "train_images": split_size(builder, split),
        "train_pairs": pairs_fingerprint(builder, split),
    }


def check_vocabulary_unchanged(
    directory: pathlib.Path, vocabulary: Sequence[str], is_read_only: bool = False
) -> None:
    """Raises InputError if the vocabulary has changed since the start of the run."""
    inputs = {"vocabulary": vocabulary_fingerprint(vocabulary)}
    check_inputs(directory, inputs, is_read_only)
    has_model = (directory / "config.json").exists()
    if has_model and newest_step(directory) is not None:
        check_vocabulary_file(directory)


def check_inputs(
    directory: str | os.PathLike,
    inputs: Mapping[str, str | int],
    is_read_only: bool = False,
) -> None:
    """Raises InputError if the inputs of a run have changed since its start.

    The first start records the inputs. A later start records inputs that are new, such
    as those of an option that was added.

    Args:
        directory: folder of the run.
        inputs: fingerprints `train_pairs`, `vocabulary`, `teacher` and `base_model`,
            and the number `train_images`. Each of them is optional.
        is_read_only: True to record nothing.

    Raises:
        InputError: if an input differs from its record.
    """
    directory = pathlib.Path(directory)
    path = directory / INPUTS_FILE
    recorded: dict[str, Any] = read_json(path) if path.exists() else {}
    if newest_step(directory) is None:
        # A run without a checkpoint starts again and records the current inputs.
        if not is_read_only:
            pairs = inputs.get("train_pairs")
            if recorded.get("train_pairs", pairs) != pairs and pairs is not None:
                # The vocabulary was learned from the former captions.
                (directory / VOCABULARY_ASSET).unlink(missing_ok=True)
            _write_inputs(path, {**recorded, **inputs})
        return
    for name, option in _FINGERPRINTS.items():
        value = inputs.get(name)
        if value is not None and recorded.get(name, value) != value:
            raise InputError(
                f"{option} must have the content that the run started with. Received: "
                f"the fingerprint {str(value)[:16]} instead of "
                f"{str(recorded[name])[:16]}. Restore it, or use another folder for "
                "the run."
            )
    pairs = inputs.get("train_pairs")
    if pairs is not None and recorded.get("train_pairs", pairs) != pairs:
        former_count = recorded.get("train_images")
        count = inputs.get("train_images")
        if former_count == count:
            change = f"their captions, ids or pixels differ, their number is {count}"
        else:
            change = f"there were {former_count} images and now there are {count}"
        raise InputError(
            "task.train_data must read the pairs that the run started with, but in "
            f"{directory} they have changed: {change}. Restore the pairs, or use "
            f"another --model_dir. To continue with the new pairs, remove {path}."
        )
    if not is_read_only and {**recorded, **inputs} != recorded:
        _write_inputs(path, {**recorded, **inputs})


def _write_inputs(path: pathlib.Path, inputs: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(inputs, file, indent=1)

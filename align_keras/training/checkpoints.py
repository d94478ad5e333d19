"""Checkpoints that hold all that a run needs to go on exactly."""

import json
import os
import pathlib
import re

import tensorflow as tf

from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json
from align_keras.utils.progress import say


class RunCheckpoints:
    """Saves and restores the model, the optimizer, the metrics and all seeds.

    The batches are a function of the step, the optimizer's iteration count. The best
    checkpoint lies in `best/`. Of several workers the chief alone `writes`.
    """

    def __init__(self, model, directory, max_to_keep=3, writes=True):
        self.model = model
        self.directory = pathlib.Path(directory)
        self.max_to_keep = max_to_keep
        self.writes = writes
        if isinstance(model, ALIGN):
            model.build_optimizer()
        variables = model.variables + model.optimizer.variables
        for metric in getattr(model, "loss_metrics", ()):
            variables += metric.variables
        distinct = {id(variable): variable.value for variable in variables}
        self._checkpoint = tf.train.Checkpoint(variables=list(distinct.values()))
        # Made by all workers here, else only by the chief as it saves: the workers of
        # a MultiWorkerMirroredStrategy make variables together.
        self._checkpoint.save_counter  # noqa: B018
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(self.directory), max_to_keep=max_to_keep
        )
        self._best = tf.train.CheckpointManager(
            self._checkpoint, str(self.directory / "best"), max_to_keep=1
        )

    @property
    def step(self) -> int:
        """Updates made so far."""
        return int(self.model.optimizer.iterations.numpy())

    def save(self) -> None:
        """Writes a checkpoint named after the step; deletes the oldest."""
        if not self.writes:
            return
        self._manager.save(checkpoint_number=self.step)
        # One that a kill kept out of TensorFlow's list is in no one else's care. Later
        # ones are damaged, and will be written over.
        before = checkpoints_in(self.directory, self.step)
        for path in map(pathlib.Path, before[self.max_to_keep :]):
            for file in self.directory.glob(f"{path.name}.*"):
                file.unlink()

    def save_if_best(self, name: str, value: float, higher: bool) -> None:
        """Writes the best checkpoint anew if the metric has improved."""
        note = self.directory / "best" / "metric.json"
        best = _noted_value(note)
        if best is not None and not (value > best if higher else value < best):
            return
        if self.writes:
            self._best.save(checkpoint_number=self.step)
            with atomic_write(note) as file:
                json.dump({"metric": name, "value": value, "step": self.step}, file)

    def restore_latest(self) -> int:
        """Restores the newest whole checkpoint; returns the step, 0 for none."""
        return self._restore(self.directory)

    def restore_best(self) -> int:
        """Restores the best checkpoint; returns the step, 0 where there is none."""
        return self._restore(self.directory / "best")

    def _restore(self, directory):
        found = checkpoints_in(directory)
        for path in found:
            if self._restored(path):
                return self.step
            say(f"warning: checkpoint {path} is damaged; trying the one before it")
        if found:
            raise InputError(
                f"all checkpoints in {directory} are damaged ({len(found)}); restore "
                "them from a copy, or remove that folder to begin again."
            )
        return 0

    def _restored(self, path):
        """Whether the checkpoint could be read; raises if it doesn't fit."""
        try:
            self._checkpoint.restore(path).assert_consumed()
        except (AssertionError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise InputError(
                f"checkpoint {path} doesn't fit the model ({first_line}); use the "
                "params.yaml beside it, or another --model_dir."
            ) from error
        except (tf.errors.OpError, RuntimeError, IndexError):
            return False
        return True


def _noted_value(note):
    """The best checkpoint's metric; None where there is none, or it is damaged."""
    if not note.exists():
        return None
    try:
        return float(read_json(note)["value"])
    except (InputError, LookupError, TypeError, ValueError):
        say(f"warning: {note} is damaged; the next value counts as the best so far")
        return None


def checkpoints_in(directory: str | os.PathLike, last: int | None = None) -> list[str]:
    """Returns the checkpoints' paths without suffix, the newest first, up to `last`."""
    # By the files: the list that TensorFlow keeps beside them may be damaged too.
    found = {}
    for path in pathlib.Path(directory).glob("ckpt-*.index"):
        match = re.fullmatch(r"ckpt-(\d+)", path.stem)
        if match and (last is None or int(match[1]) <= last):
            found[int(match[1])] = str(path.with_suffix(""))
    return [found[step] for step in sorted(found, reverse=True)]

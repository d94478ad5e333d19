"""Checkpoints with the complete state of a run, so that it resumes exactly."""

import json
import os
import pathlib
import re

import keras
import tensorflow as tf

from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json
from align_keras.utils.progress import say


class RunCheckpoints:
    """Checkpoints of the model, the optimizer, the metrics and all random seeds.

    The position in the data isn't saved, since the batches are a function of the step,
    which is the iteration count of the optimizer. The best checkpoint is in `best/`.

    Args:
        model: compiled `ALIGN` or `ImageClassifier`.
        directory: folder of the checkpoints.
        max_to_keep: number of checkpoints to keep.
        writes: write checkpoints. False for workers other than the chief.
    """

    def __init__(
        self,
        model: keras.Model,
        directory: str | os.PathLike,
        max_to_keep: int = 3,
        writes: bool = True,
    ) -> None:
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
        # TensorFlow creates this variable when it is read for the first time. All
        # workers of a MultiWorkerMirroredStrategy must create variables at the same
        # time, so all of them read it here instead of only the chief when it saves.
        self._save_counter = self._checkpoint.save_counter
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(self.directory), max_to_keep=max_to_keep
        )
        self._best = tf.train.CheckpointManager(
            self._checkpoint, str(self.directory / "best"), max_to_keep=1
        )

    @property
    def step(self) -> int:
        """Number of updates since the start of training."""
        return int(self.model.optimizer.iterations.numpy())

    def save(self) -> None:
        """Writes a checkpoint named after the step, and deletes the oldest ones."""
        if not self.writes:
            return
        self._manager.save(checkpoint_number=self.step)
        # TensorFlow deletes only the checkpoints in its list. A checkpoint isn't in the
        # list if the process was killed after it was written. Checkpoints of later
        # steps are damaged and will be overwritten.
        paths = checkpoints_in(self.directory, self.step)
        for path in paths[self.max_to_keep :]:
            for file in self.directory.glob(f"{pathlib.Path(path).name}.*"):
                file.unlink()

    def save_if_best(self, name: str, value: float, higher: bool) -> None:
        """Replaces the best checkpoint if the metric has improved."""
        note = self.directory / "best" / "metric.json"
        best = read_best_value(note, name)
        if best is not None and not (value > best if higher else value < best):
            return
        if self.writes:
            self._best.save(checkpoint_number=self.step)
            with atomic_write(note) as file:
                json.dump({"metric": name, "value": value, "step": self.step}, file)

    def restore_latest(self) -> int:
        """Restores the newest intact checkpoint.

        Returns:
            int, its step, or 0 if there is no checkpoint.

        Raises:
            InputError: if all checkpoints are damaged, or don't fit the model.
        """
        return self._restore(self.directory)

    def restore_best(self) -> int:
        """Restores the best checkpoint. Returns and raises like `restore_latest`."""
        return self._restore(self.directory / "best")

    def _restore(self, directory: pathlib.Path) -> int:
        paths = checkpoints_in(directory)
        for path in paths:
            if self._read(path):
                return self.step
            say(f"warning: checkpoint {path} is damaged. Trying the previous one.")
        if paths:
            raise InputError(
                f"All {len(paths)} checkpoints in {directory} are damaged. Restore "
                "them from a copy, or remove the folder to start again."
            )
        return 0

    def _read(self, path: str) -> bool:
        """Restores a checkpoint.

        Returns:
            bool, False if the checkpoint is damaged.

        Raises:
            InputError: if the checkpoint doesn't fit the model.
        """
        try:
            self._checkpoint.restore(path).assert_consumed()
        except (AssertionError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise InputError(
                f"The checkpoint {path} doesn't fit the model ({first_line}). Use the "
                "params.yaml of its run, or another --model_dir."
            ) from error
        except (tf.errors.OpError, RuntimeError, IndexError):
            return False
        return True


def restore_checkpoint(model: ALIGN, directory: pathlib.Path, which: str) -> int:
    """Restores the latest or the best checkpoint of a run.

    Args:
        model: compiled `ALIGN`.
        directory: `pathlib.Path`, folder of the run.
        which: `"latest"` or `"best"`.

    Returns:
        int, the step of the checkpoint.

    Raises:
        InputError: if the checkpoint is damaged.
    """
    checkpoints = RunCheckpoints(model, directory / "checkpoints")
    if which == "best":
        return checkpoints.restore_best()
    return checkpoints.restore_latest()


def read_best_value(note: pathlib.Path, metric: str | None = None) -> float | None:
    """Returns the metric of the best checkpoint, or None if it is unknown.

    It is unknown if the file `note` is missing or damaged, or if the checkpoint was
    chosen by another metric.
    """
    if not note.exists():
        return None
    try:
        content = read_json(note)
        if metric is not None and content.get("metric", metric) != metric:
            return None
        return float(content["value"])
    except (InputError, LookupError, TypeError, ValueError):
        say(f"warning: {note} is damaged. The next value counts as the best one.")
        return None


def checkpoints_in(directory: str | os.PathLike, last: int | None = None) -> list[str]:
    """Returns the paths of the checkpoints without suffix, the newest first.

    Args:
        directory: folder of the checkpoints.
        last: largest step to return, or None for all steps.
    """
    # The list of TensorFlow in the same folder may be damaged, so it isn't read.
    paths: dict[int, str] = {}
    for path in pathlib.Path(directory).glob("ckpt-*.index"):
        match = re.fullmatch(r"ckpt-(\d+)", path.stem)
        if match and (last is None or int(match[1]) <= last):
            paths[int(match[1])] = str(path.with_suffix(""))
    return [paths[step] for step in sorted(paths, reverse=True)]

"""The newest state of a classifier in training, stage and step."""

import pathlib
import re

import keras
import tensorflow as tf

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say


class StageCheckpoints:
    """Keeps one checkpoint of the classifier and its optimizer.

    Args:
        directory: `pathlib.Path`; made when the first one is written.
        interval: int ≥ 1, steps between checkpoints.
    """

    def __init__(self, directory, interval):
        self.directory, self.interval = pathlib.Path(directory), interval

    def newest(self):
        """Returns the stage and the step of the checkpoint, (0, 0) without one."""
        return max(self._found(), default=(0, 0))

    def restore(self, classifier):
        """Puts the newest state into a classifier, compiled as when it was saved.

        Raises:
            InputError: if the checkpoint can't be read.
        """
        stage, step = self.newest()
        path = self._found()[stage, step]
        try:
            _checkpoint_of(classifier).read(str(path)).assert_consumed()
        except (tf.errors.OpError, AssertionError, RuntimeError, IndexError) as error:
            raise InputError(
                f"checkpoint {path} is damaged; remove {self.directory}, then run the "
                "same command: the training begins again."
            ) from error
        say(f"going on at step {step} of stage {stage + 1}")

    def save(self, classifier, stage, step):
        """Writes the checkpoint, then removes the one before."""
        before = self._found().values()
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"stage-{stage}-step-{step}"
        _checkpoint_of(classifier).write(str(path))
        for old in before:
            for file in self.directory.glob(f"{old.name}.*"):
                file.unlink()

    def _found(self):
        found = {}
        for path in self.directory.glob("*.index"):
            match = re.fullmatch(r"stage-(\d+)-step-(\d+)", path.stem)
            if match:
                found[int(match[1]), int(match[2])] = path.with_suffix("")
        return found


class SaveStage(keras.callbacks.Callback):
    """Saves the state every interval of steps.

    Args:
        checkpoints: `StageCheckpoints`.
        stage: int, the number of the stage.
        step: int, the step that it begins at.
    """

    def __init__(self, checkpoints, stage, step):
        super().__init__()
        self.checkpoints, self.stage, self.step = checkpoints, stage, step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.checkpoints.interval == 0:
            self.checkpoints.save(self.model, self.stage, self.step)


def _checkpoint_of(classifier):
    variables = classifier.variables + classifier.optimizer.variables
    distinct = {id(variable): variable.value for variable in variables}
    return tf.train.Checkpoint(variables=list(distinct.values()))

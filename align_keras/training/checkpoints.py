"""Checkpoints that hold all that a run needs to go on exactly."""

import tensorflow as tf

from align_keras.utils.errors import InputError


class RunCheckpoints:
    """Saves and restores the model, the optimizer and all seeds of a run.

    The input position isn't stored: the batches are a function of the step,
    which is the optimizer's iteration count.

    Args:
        model: compiled `ALIGN`.
        directory: str, `checkpoints/` of the run's folder.
        max_to_keep: int ≥ 1, older ones are deleted.
    """

    def __init__(self, model, directory, max_to_keep=3):
        self.model = model
        variables = model.variables + model.optimizer.variables
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables]
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, directory, max_to_keep=max_to_keep
        )

    @property
    def step(self):
        """int, updates made so far."""
        return int(self.model.optimizer.iterations.numpy())

    def save(self):
        """Writes a checkpoint named after the step."""
        self._manager.save(checkpoint_number=self.step)

    def restore_latest(self):
        """Restores the newest checkpoint, if any; returns the step.

        Raises:
            InputError: if it doesn't fit the model.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return 0
        try:
            self._checkpoint.restore(latest).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise InputError(
                f"checkpoint {latest} doesn't fit the model ({first_line}); use the "
                "params.yaml beside it, or another --model_dir."
            ) from error
        return self.step

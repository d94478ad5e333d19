"""One worker of a MultiWorkerMirroredStrategy run; TF_CONFIG says which.

`python worker_script.py DIRECTORY STEPS OPTIMIZER [OPTION…]` trains a small ALIGN on
rows made from the step and saves its weights as `DIRECTORY/weights.npz` at the end.
Without TF_CONFIG it is the run of one process that the workers are compared with. An
option: `die_at=STEP` (this worker kills itself before that step).
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from align_keras.training import TrainingSchedule, train
from align_keras.training.strategies import is_chief, make_strategy, strategy_scope
from tests.training.updates_script import ROWS, batch, make_model, optimizer


def make_batches(start_step, input_pipeline_id=0, num_input_pipelines=1):
    """A worker's rows of the batches that one process would see."""
    count = ROWS // num_input_pipelines
    rows = slice(input_pipeline_id * count, (input_pipeline_id + 1) * count)

    def batches():
        step = start_step
        while True:
            die_at = next((o for o in sys.argv if o.startswith("die_at=")), None)
            if die_at and step == int(die_at.partition("=")[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield {name: value[rows] for name, value in batch(step).items()}
            step += 1

    example = batch(0)
    spec = {
        name: tf.TensorSpec((count, *value.shape[1:]), value.dtype)
        for name, value in example.items()
    }
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def main():
    directory, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    strategy = make_strategy(
        "multi_worker_mirrored" if "TF_CONFIG" in os.environ else "default"
    )
    with strategy_scope(strategy):
        model = make_model(synchronized=True)
        model.compile(optimizer(sys.argv[3], global_clipnorm=0.5))
        loop = min(steps, 2)
        schedule = TrainingSchedule(steps, loop, loop, loop)
        train(model, make_batches, schedule, directory, batch_size=ROWS)
        if is_chief(model.distribute_strategy):
            variables = model.image_encoder.variables + model.text_encoder.variables
            weights = {variable.path: variable.numpy() for variable in variables}
            np.savez(directory / "weights.npz", **weights)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    main()

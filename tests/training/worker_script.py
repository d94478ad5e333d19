"""Runs one worker of a MultiWorkerMirroredStrategy, which TF_CONFIG describes.

`python worker_script.py DIRECTORY` trains a small ALIGN with each optimizer of `RUNS`,
and saves its weights as `DIRECTORY/OPTIMIZER_STEP.npz`. The batches are a function of
the step. Without TF_CONFIG, a single process computes the expected weights.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from align_keras.config.experiment_config import TrainerConfig
from align_keras.training import train_model
from align_keras.training.strategies import make_strategy, strategy_scope
from tests.helpers.updates_script import ROWS, batch, make_model, optimizer

# Optimizer, number of steps, and steps between two files of weights.
RUNS = (("sgd", 1, 1), ("lamb", 4, 1))


def make_batches(start_step, input_pipeline_id=0, num_input_pipelines=1):
    """Returns the rows of a worker in the batches of a single process."""
    count = ROWS // num_input_pipelines
    rows = slice(input_pipeline_id * count, (input_pipeline_id + 1) * count)

    def batches():
        step = start_step
        while True:
            yield {name: value[rows] for name, value in batch(step).items()}
            step += 1

    example = batch(0)
    spec = {
        name: tf.TensorSpec((count, *value.shape[1:]), value.dtype)
        for name, value in example.items()
    }
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def run(strategy, directory, name, steps, interval):
    """Trains a model, and saves its weights every `interval` steps."""
    keras.utils.set_random_seed(0)
    with strategy_scope(strategy):
        model = make_model(synchronized=True)
        model.compile(optimizer(name, global_clipnorm=0.5))
    variables = model.image_encoder.variables + model.text_encoder.variables
    steps_done = 0

    def save():
        nonlocal steps_done
        steps_done += interval
        weights = {variable.path: variable.numpy() for variable in variables}
        np.savez(directory / f"{name}_{steps_done}.npz", **weights)
        return []

    schedule = TrainerConfig(
        train_steps=steps,
        steps_per_loop=interval,
        checkpoint_interval=steps,
        validation_interval=interval,
    )
    folder = directory / name
    train_model(model, make_batches, schedule, folder, batch_size=ROWS, evaluate=save)


def main():
    directory = pathlib.Path(sys.argv[1])
    strategy = make_strategy(
        "multi_worker_mirrored" if "TF_CONFIG" in os.environ else "default"
    )
    directory.mkdir(exist_ok=True)
    for name, steps, interval in RUNS:
        run(strategy, directory, name, steps, interval)


if __name__ == "__main__":
    main()

"""Trains a few steps as one of two workers.

usage: traffic_script.py DIRECTORY OVERRIDES

TF_CONFIG sets the number of the worker. The first worker prints the mean number of
bytes that a worker received per step, as JSON. The counter of the loopback interface
counts the bytes of both workers.
"""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

from align_keras.config import load_config
from align_keras.config.experiment_config import TrainerConfig
from align_keras.runs.model_from_config import build_model, compile_model
from align_keras.training import train_model
from align_keras.training.strategies import is_chief, make_strategy, strategy_scope
from tests.planning.memory_script import random_batch

COUNTER = pathlib.Path("/sys/class/net/lo/statistics/rx_bytes")
WORKERS = 2
STEPS_PER_LOOP = 4
STEPS = 12


def main():
    directory, overrides = sys.argv[1:]
    config = load_config(params_override=overrides)
    batch_size = config.task.train_data.global_batch_size
    strategy = make_strategy("multi_worker_mirrored")
    with strategy_scope(strategy):
        model = build_model(config.task.model)
        compile_model(model, config)
    counts = []

    def evaluate():
        counts.append(int(COUNTER.read_text()))
        return []

    def make_batches(start_step, input_pipeline_id=0, num_input_pipelines=1):
        rows = batch_size // num_input_pipelines
        batch = {name: values[:rows] for name, values in random_batch(config).items()}
        return tf.data.Dataset.from_tensors(batch).repeat()

    schedule = TrainerConfig(
        train_steps=STEPS,
        steps_per_loop=STEPS_PER_LOOP,
        checkpoint_interval=STEPS,
        validation_interval=STEPS_PER_LOOP,
    )
    train_model(
        model,
        make_batches,
        schedule,
        directory,
        batch_size=batch_size,
        evaluate=evaluate,
    )
    if is_chief(strategy):
        # The first loop is not counted, since it also traces the step and sends the
        # initial weights.
        steps = STEPS - STEPS_PER_LOOP
        print(json.dumps((counts[-1] - counts[0]) / steps / WORKERS))


if __name__ == "__main__":
    main()

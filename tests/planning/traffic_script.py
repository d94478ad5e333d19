"""One of two workers that train a few steps: `DIRECTORY OVERRIDES`.

TF_CONFIG says which. The first prints as JSON how many bytes a worker received in a
step, by the loopback interface's own counter, which counts those of both.
"""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

from align_keras.config import TrainerConfig, load_config
from align_keras.runs.assemble import build_model, compile_model
from align_keras.training import train_model
from align_keras.training.strategies import is_chief, make_strategy, strategy_scope
from tests.planning.memory_script import random_batch

COUNTER = pathlib.Path("/sys/class/net/lo/statistics/rx_bytes")
WORKERS, LOOP, STEPS = 2, 4, 12


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
        batch = {name: own[:rows] for name, own in random_batch(config).items()}
        return tf.data.Dataset.from_tensors(batch).repeat()

    schedule = TrainerConfig(STEPS, LOOP, STEPS, LOOP)
    train_model(
        model,
        make_batches,
        schedule,
        directory,
        batch_size=batch_size,
        evaluate=evaluate,
    )
    if is_chief(strategy):
        # The first loop also traces the step and sends the first weights.
        steps = STEPS - LOOP
        print(json.dumps((counts[-1] - counts[0]) / steps / WORKERS))


if __name__ == "__main__":
    main()

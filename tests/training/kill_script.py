"""Trains a small ALIGN, and saves a checkpoint at the end of each loop.

`python kill_script.py DIRECTORY REPLICAS STEPS_PER_LOOP MODE` writes the run to
DIRECTORY and reads the pairs of `pairs/pairs.jsonl` in its parent folder. test_kill.py
starts the script, kills it and starts it again. MODE is that of `set_training`. In the
mode full on one replica, the image encoder is locked, since tracing its gradients takes
most of the time.
"""

import pathlib
import sys

from align_keras.config.experiment_config import TrainerConfig
from align_keras.data import training_batches
from align_keras.datasets import open_corpus
from align_keras.losses import ContrastiveLoss
from align_keras.models import ALIGNImageConverter, ALIGNPreprocessor, ALIGNTokenizer
from align_keras.optimizers import Lamb
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.training import train_model
from align_keras.training.strategies import make_strategy, split_cpu, strategy_scope
from tests.helpers.small_run import COLORS, SHAPES
from tests.helpers.updates_script import LENGTH, ROWS, SIZE, make_model

STEPS = 48


def batch_maker(folder):
    """Returns the function `make_batches` of `train_model`."""
    builder = open_corpus(
        "pairs", pairs=folder / "pairs" / "pairs.jsonl", data_dir=folder / "data"
    )
    preprocessor = ALIGNPreprocessor(
        ALIGNTokenizer([*SPECIAL_TOKENS, "a", *COLORS, *SHAPES], LENGTH),
        ALIGNImageConverter(SIZE),
    )

    def make_batches(start_step):
        return training_batches(
            builder,
            "train",
            preprocessor,
            batch_size=ROWS,
            seed=5,
            start_step=start_step,
            shuffle_buffer_size=20,
        )

    return make_batches


def main():
    directory, (count, loop) = pathlib.Path(sys.argv[1]), map(int, sys.argv[2:4])
    mode = sys.argv[4]
    strategy = None
    if count > 1:
        split_cpu(count)
        strategy = make_strategy("mirrored", count)
    with strategy_scope(strategy):
        model = make_model(dropout=0.2, locked=count == 1 and mode == "full")
        if mode != "full":
            model.image_encoder.set_training(mode, rank=2)
            model.text_encoder.set_training(mode, rank=2)
        loss = ContrastiveLoss(tile_size="auto")
        model.compile(Lamb(1e-3, global_clipnorm=1.0, use_ema=True), loss)
        schedule = TrainerConfig(
            train_steps=STEPS,
            steps_per_loop=loop,
            checkpoint_interval=loop,
            validation_interval=8,
            max_to_keep=2,
        )
        make_batches = batch_maker(directory.parent)
        train_model(model, make_batches, schedule, directory, batch_size=ROWS)


if __name__ == "__main__":
    main()

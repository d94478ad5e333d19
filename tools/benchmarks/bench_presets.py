"""Measures the CPU time of a training step of the presets, and estimates that of a run.

    python tools/benchmarks/bench_presets.py --presets align_nano align_micro

Each preset trains with `compile()` and `fit` on random images and captions, in a
separate process on one core. The first step, which traces the graph, is not measured.
CPU time depends less on other programs than wall time. A run has 5,000 pairs and 10
epochs.
"""

import argparse
import json
import subprocess
import sys
import time

VOCABULARY_SIZE = 10_000
PAIRS = 5_000
EPOCHS = 10


def measure(preset, batch_size, steps):
    """Prints the image size, the parameters and the median seconds of a step."""
    import keras
    import numpy as np
    import tensorflow as tf

    import align_keras

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    model = align_keras.ALIGN.from_preset(preset, vocabulary_size=VOCABULARY_SIZE)
    model.compile()
    random = np.random.default_rng(0)
    size, length = model.image_size, model.text_encoder.sequence_length
    batch = {
        "images": random.integers(0, 256, (batch_size, size, size, 3), dtype="uint8"),
        "token_ids": random.integers(
            5, VOCABULARY_SIZE, (batch_size, length), dtype="int32"
        ),
        "padding_mask": np.ones((batch_size, length), "int32"),
    }
    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.process_time()

        def on_train_batch_end(self, batch, logs=None):
            seconds.append(time.process_time() - self.start)

    batches = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(batches, steps_per_epoch=steps + 1, verbose=0, callbacks=[Clock()])
    result = {
        "pixels": size,
        "parameters": model.count_params(),
        "seconds": float(np.median(seconds[1:])),
    }
    print(json.dumps(result))


def main():
    """Measures the presets in turn, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["align_nano", "align_micro"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run, arguments.batch_size, arguments.steps)
        return
    step = f"CPU s per step of {arguments.batch_size} pairs"
    print(f"| preset | pixels | parameters | {step} | CPU time of a run |")
    print("|---|---|---|---|---|")
    for preset in arguments.presets:
        command = [sys.executable, __file__, "--run", preset]
        command += ["--batch-size", str(arguments.batch_size)]
        command += ["--steps", str(arguments.steps)]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        result = json.loads(process.stdout.splitlines()[-1])
        steps = EPOCHS * (PAIRS // arguments.batch_size)
        minutes = steps * result["seconds"] / 60
        duration = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
        print(
            f"| {preset} | {result['pixels']} | {result['parameters'] / 1e6:.1f}M | "
            f"{result['seconds']:.2f} | {duration} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

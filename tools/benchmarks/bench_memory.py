"""Measures memory and time of training steps with micro-batches and rematerialization.

`python tools/benchmarks/bench_memory.py` trains EfficientNet-B0 at 128 pixels with
BERT-mini. Each measurement of a variant runs in a separate process, and the variants
take turns. Memory is the peak of the process minus its memory before the first step.
Times are medians of the steps' wall time and CPU time.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "plain": {},
    "micro-batches of 64": {"micro_batch_size": 64},
    "micro-batches of 32": {"micro_batch_size": 32},
    "rematerialized": {"rematerialize": True},
    "rematerialized, micro-batches of 32": {
        "rematerialize": True,
        "micro_batch_size": 32,
    },
}


def build(rematerialize):
    """Returns an ALIGN of EfficientNet-B0 and BERT-mini."""
    from align_keras import ALIGN, ImageEncoder, TextEncoder

    image = ImageEncoder(
        image_size=128, projection_dim=256, rematerialize=rematerialize
    )
    text = TextEncoder.from_variant(
        "bert_mini",
        vocabulary_size=30_000,
        projection_dim=256,
        rematerialize=rematerialize,
    )
    return ALIGN.from_encoders(image, text)


def measure(variant, batch_size, steps):
    """Prints the peak in GiB and the seconds of each step as JSON."""
    import keras
    import numpy as np
    import tensorflow as tf

    from align_keras.losses import ContrastiveLoss

    options = dict(VARIANTS[variant])
    keras.utils.set_random_seed(0)
    model = build(options.pop("rematerialize", False))
    loss = ContrastiveLoss(tile_size="auto")
    model.compile(keras.optimizers.SGD(1e-3), loss, **options)
    random = np.random.default_rng(0)
    batch = {
        "images": random.integers(0, 256, (batch_size, 128, 128, 3), dtype="uint8"),
        "token_ids": random.integers(5, 30_000, (batch_size, 64), dtype="int32"),
        "padding_mask": np.ones((batch_size, 64), "int32"),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    start = peak()
    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, step, logs=None):
            self.start = time.process_time(), time.perf_counter()

        def on_train_batch_end(self, step, logs=None):
            ends = time.process_time(), time.perf_counter()
            seconds.append(
                [end - start for end, start in zip(ends, self.start, strict=True)]
            )

    model.fit(dataset, steps_per_epoch=steps + 1, verbose=0, callbacks=[Clock()])
    print(json.dumps({"gib": peak() - start, "seconds": seconds[1:]}))


def peak():
    """Returns the process's peak resident memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    """Runs the variants in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        measure(arguments.variant, arguments.batch_size, arguments.steps)
        return
    results = {name: {"gib": [], "cpu": [], "wall": []} for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name, result in results.items():
            command = [sys.executable, __file__, "--variant", name]
            command += [f"--batch_size={arguments.batch_size}"]
            command += [f"--steps={arguments.steps}"]
            process = subprocess.run(
                command, capture_output=True, text=True, check=True
            )
            line = json.loads(process.stdout.splitlines()[-1])
            result["gib"].append(line["gib"])
            result["cpu"] += [cpu for cpu, _ in line["seconds"]]
            result["wall"] += [wall for _, wall in line["seconds"]]
    first = results["plain"]
    print("| step | GiB above start | wall s | CPU s | CPU time, ratio |")
    print("|---|---|---|---|---|")
    for name, result in results.items():
        cpu = statistics.median(result["cpu"])
        wall = statistics.median(result["wall"])
        ratio = cpu / statistics.median(first["cpu"])
        gib = max(result["gib"])
        print(f"| {name} | {gib:.2f} | {wall:.2f} | {cpu:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

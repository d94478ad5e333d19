"""Measures memory, CPU time and recall of partial and full training.

    python tools/benchmarks/bench_partial.py --out saved_models/bench_partial

The script trains `align_small_en` on icons (package qtawesome) in each mode of
`set_training`, in both encoders. It measures recall@10 among 1,000 icons of a font that
it doesn't train on (Font Awesome). The first row is the model before the training. Each
row runs in a separate process. The script appends results to results.jsonl in the
folder, and continues there if it was interrupted. `--table` prints all results.

The columns are:

- rate: peak learning rate of AdamW, with a warm-up and a cosine decay.
- trained: number of trained weights.
- file: size of the file that stores the training, which is lora.lora.h5 for LoRA and
  model.weights.h5 for the other modes.
- peak memory: largest resident memory of the process during the training (Linux).
- training memory: the peak minus the resident memory before the training.
- CPU seconds per step of the process. They include the preparation of the images, but
  not the first epoch, in which the graph is traced.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from bench_recipe import CANDIDATES, build_optimizer, pairs_and_candidates, prepare
from turns import memory

# Row of the model before the training.
START = "start"
MODES = (START, "projection", "last_blocks", "lora", "full")
# Learning rates of AdamW. Fewer trained weights need a higher rate.
RATES = {"projection": 1e-3, "last_blocks": 2e-4, "lora": 1e-3, "full": 1e-4}
MB = 10**6


def rate_of(mode, arguments):
    """Returns the learning rate of a mode, or None for the model before training."""
    return None if mode == START else arguments.rate or RATES[mode]


def measure_recall(model, candidates):
    """Returns recall@10 of text to image and of image to text."""
    import align_keras

    images = model.encode_images(list(candidates[0]))
    texts = model.encode_texts(candidates[1])
    positives = [[row] for row in range(len(images))]
    recalls = []
    for queries, gallery in ((texts, images), (images, texts)):
        recall = align_keras.recall_at_k(
            queries, gallery, positives=positives, ks=(10,)
        )
        recalls.append(float(next(iter(recall.values()))))
    return recalls


def stored_bytes(model, mode):
    """Returns the size of the file that stores the training."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        if mode == "lora":
            model.save_lora_weights(path / "lora.lora.h5")
            return (path / "lora.lora.h5").stat().st_size
        model.save_to_preset(path)
        return (path / "model.weights.h5").stat().st_size


def measure_mode(mode, arguments):
    """Trains in a mode, and prints a line of JSON."""
    import keras

    import align_keras

    keras.utils.set_random_seed(0)
    train, candidates = pairs_and_candidates("icons", arguments.out, arguments.pairs)
    if mode == START:
        model = align_keras.ALIGN.from_preset(
            "align_small_en", image_size=arguments.image_size
        )
        result = {"mode": mode, "recall": measure_recall(model, candidates)}
        print(json.dumps(result), flush=True)
        return
    model = align_keras.ALIGN.from_preset(
        "align_small_en",
        image_size=arguments.image_size,
        training=mode,
        blocks=arguments.blocks if mode == "last_blocks" else None,
        rank=arguments.rank if mode == "lora" else None,
    )
    batch_size = arguments.batch_size
    steps_per_epoch = max(1, len(train[1]) // batch_size)
    steps = arguments.epochs * steps_per_epoch
    rate = rate_of(mode, arguments)
    model.compile(build_optimizer("adamw", rate, steps))
    # Resets the peak, because opening the data needs more memory than it keeps.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = memory("VmRSS")
    ends = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.process_time())
    )
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=arguments.epochs,
        verbose=0,
        callbacks=[record],
    )
    result = {
        "mode": mode,
        "pairs": len(train[1]),
        "epochs": arguments.epochs,
        "batch_size": batch_size,
        "rate": rate,
        "trained": sum(v.shape.num_elements() for v in model.trainable_variables),
        "start_bytes": start,
        "peak_bytes": memory("VmHWM"),
        "cpu_seconds": (ends[-1] - ends[0]) / (steps - steps_per_epoch),
        "file_bytes": stored_bytes(model, mode),
        "candidates": CANDIDATES,
        "recall": measure_recall(model, candidates),
    }
    print(json.dumps(result), flush=True)


def print_table(results):
    """Prints a row for each result."""
    columns = [
        "mode",
        "rate",
        "trained",
        "file, MB",
        "peak memory, MB",
        "training memory, MB",
        "CPU s per step",
        "R@10 text → image, %",
        "R@10 image → text, %",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in results:
        numbers = [""] * 6
        if result["mode"] != START:
            training_bytes = result["peak_bytes"] - result["start_bytes"]
            numbers = [
                f"{result['rate']:g}",
                f"{result['trained']:,}",
                f"{result['file_bytes'] / MB:.1f}",
                f"{result['peak_bytes'] / MB:,.0f}",
                f"{training_bytes / MB:,.0f}",
                f"{result['cpu_seconds']:.2f}",
            ]
        recalls = [f"{100 * recall:.1f}" for recall in result["recall"]]
        print(f"| {' | '.join([result['mode'], *numbers, *recalls])} |")


def main():
    """Trains in the modes without a result, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--image-size", type=int, default=160, help="pixels, 160 as in the model"
    )
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--rate", type=float, help="learning rate of all modes (default: one for each)"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the results without training"
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure_mode(arguments.run, arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = {
        (line["mode"], line.get("rate")): line for line in map(json.loads, lines)
    }
    if not arguments.table:
        prepare("icons", arguments.out)
    for mode in () if arguments.table else arguments.modes:
        key = (mode, rate_of(mode, arguments))
        if key in results:
            continue
        command = [sys.executable, *sys.argv, "--run", mode]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        line = process.stdout.splitlines()[-1]
        results[key] = json.loads(line)
        with open(path, "ab") as file:
            file.write(line + b"\n")
    print_table(results.values())


if __name__ == "__main__":
    main()

"""Measures recall, time and memory of the quickstart under each loss and batch size.

    python tools/benchmarks/bench_losses.py --out saved_models/bench_losses

Each loss and batch size is one run of `align-keras train --experiment quickstart_icons`
(package qtawesome) in a separate process. All runs train on the same number of pairs,
so larger batches make fewer steps. As in the default recipe, the learning rate is
proportional to the square root of the batch size. The moving statistics of batch
normalization average over the same number of pairs. The script appends results to
results.jsonl in the folder, and continues there if it was interrupted. `--table` prints
all results. Columns:

- t2i R@10, i2t R@10: recall on the validation pairs of the experiment.
- CPU s, wall s: time of the process, including its start and the evaluation.
- memory: peak resident memory of the process (Linux), including the cached images.

A second table has the recall of the runs with several widths at each width.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time

LOSSES = {
    "contrastive": "task.loss.type=contrastive",
    "sigmoid": "task.loss.type=sigmoid,task.loss.sigmoid.share_equal_captions=true",
    "contrastive, 3 widths": "task.loss.matryoshka.widths=[64,128]",
    "sigmoid, 3 widths": "task.loss.type=sigmoid,"
    "task.loss.sigmoid.share_equal_captions=true,task.loss.matryoshka.widths=[64,128]",
}
# Settings of the experiment, which depend on the batch size.
REFERENCE_BATCH_SIZE = 256
REFERENCE_RATE = 1e-2
REFERENCE_MOMENTUM = 0.96
RATE = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
MIB = 2**20


def overrides_of(loss, batch_size, arguments):
    """Returns the overrides of a run."""
    steps = max(1, arguments.pairs // batch_size)
    ratio = batch_size / REFERENCE_BATCH_SIZE
    momentum = 1 - (1 - REFERENCE_MOMENTUM) * ratio
    overrides = [
        f"task.train_data.global_batch_size={batch_size}",
        f"{RATE}={REFERENCE_RATE * math.sqrt(ratio):.6g}",
        f"task.model.image_encoder.batch_norm_momentum={max(0, momentum):.6g}",
        f"trainer.train_steps={steps}",
        f"trainer.steps_per_loop={steps}",
        f"trainer.checkpoint_interval={steps}",
        f"trainer.validation_interval={steps}",
        f"trainer.optimizer_config.warmup.linear.warmup_steps={steps // 10}",
        f"task.train_data.tfds_data_dir={arguments.out}/data",
        f"task.validation_data.tfds_data_dir={arguments.out}/data",
        LOSSES[loss],
    ]
    micro_batch_size = arguments.micro_batch_size
    if micro_batch_size is not None and batch_size > micro_batch_size:
        overrides.append(f"task.train_data.micro_batch_size={micro_batch_size}")
    return [",".join(overrides), *arguments.params_override]


def train(folder, overrides, experiment):
    """Trains a run. Returns its wall time, CPU time and peak memory in bytes."""
    command = [sys.executable, "-m", "align_keras.cli.main", "train"]
    command += ["--experiment", experiment, "--mode", "train_and_eval"]
    command += ["--model_dir", str(folder)]
    for override in overrides:
        command += ["--params_override", override]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"align-keras train failed for {folder}.")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def measure(loss, batch_size, arguments):
    """Returns the result of a loss and a batch size as a dict."""
    from align_keras.runs.run import open_run

    folder = arguments.out / f"{loss.replace(', ', '_').replace(' ', '_')}_{batch_size}"
    overrides = overrides_of(loss, batch_size, arguments)
    wall, cpu, memory = train(folder, overrides, arguments.experiment)
    return {
        "loss": loss,
        "batch_size": batch_size,
        "pairs": arguments.pairs,
        "micro_batch_size": arguments.micro_batch_size,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "memory_bytes": memory,
        **recalls(open_run(folder).metrics),
    }


def recalls(metrics):
    """Returns R@10 by its direction, such as `t2i`, or `width_64/t2i`."""
    suffix = "/recall_at_10"
    return {
        name.removesuffix(suffix): value
        for name, value in metrics.items()
        if name.endswith(suffix)
    }


def print_table(results):
    """Prints a row for each loss and batch size."""
    columns = ["loss", "batch", "t2i R@10, %", "i2t R@10, %", "CPU s", "wall s"]
    columns.append("memory, MiB")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for result in results:
        cells = [
            result["loss"],
            f"{result['batch_size']:,}",
            f"{100 * result['t2i']:.1f}",
            f"{100 * result['i2t']:.1f}",
            f"{result['cpu_seconds']:.0f}",
            f"{result['wall_seconds']:.0f}",
            f"{result['memory_bytes'] / MIB:,.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


def print_widths(results):
    """Prints the recall at each width for the runs that have several widths."""
    print("| loss | batch | width | t2i R@10, % | i2t R@10, % |\n|---|---|---|---|---|")
    for result in results:
        prefixes = [
            name.removesuffix("t2i") for name in result if name.endswith("/t2i")
        ]
        for prefix in [*prefixes, ""] if prefixes else []:
            width = prefix.removeprefix("width_").rstrip("/") or "all"
            cells = [result["loss"], f"{result['batch_size']:,}", width]
            cells += [f"{100 * result[prefix + end]:.1f}" for end in ("t2i", "i2t")]
            print(f"| {' | '.join(cells)} |")


def main():
    """Trains the runs without a result, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    sizes = [64, 256, 1024, 4096]
    parser.add_argument("--batches", nargs="+", type=int, default=sizes)
    parser.add_argument("--pairs", type=int, default=76_800, help="pairs of each run")
    parser.add_argument("--micro-batch-size", type=int, help="for larger batches")
    parser.add_argument("--experiment", default="quickstart_icons")
    parser.add_argument("--params_override", action="append", default=[])
    parser.add_argument(
        "--table", action="store_true", help="print the results without training"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = {
        (line["loss"], line["batch_size"]): line for line in map(json.loads, lines)
    }
    cases = [(loss, size) for size in arguments.batches for loss in arguments.losses]
    for case in () if arguments.table else cases:
        if case in results:
            continue
        results[case] = measure(*case, arguments)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[case]) + "\n")
    ordered = [results[case] for case in sorted(results)]
    print_table(ordered)
    print()
    print_widths(ordered)


if __name__ == "__main__":
    main()

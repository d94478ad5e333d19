"""Measures time and memory of the contrastive loss and its gradients.

    python tools/benchmarks/bench_loss.py [--sizes 4096 8192 16384] [--large 65536]
    python tools/benchmarks/bench_loss.py --memory 16384 65536 262144 --width 128

Each form of the loss runs in a separate process, which measures its peak memory. The
repetitions are interleaved, and the table shows medians. Columns:

- seconds: wall time | CPU time. Only the CPU time is meaningful if other programs run.
- GiB: peak memory minus the memory after loading the code and the embeddings (Linux).
- % of roof: speed relative to a matrix product. It counts four products of 2·N²·width
  operations, the minimum for a form that does not store the logits. A form that
  stores them needs only three and can exceed 100%.
- ratio: time of open_clip's ClipLoss in torch divided by the time of the form. The
  column is empty if open_clip isn't installed.

With `--memory`, the script runs the form `tiled 2048` once for each batch size, each in
a process of its own. The table shows the memory per pair, and the memory that the
logits would need as float32 numbers.
"""

import argparse
import gc
import os
import pathlib
import statistics
import sys

from harness import memory, positive, run_benchmark, serve, take_turns, timed

# Name of a tiled form → tile size and dtype of the matrix products.
TILED = {"tiled auto": ("auto", None), "tiled 2048": (2048, None)}
TILED["tiled auto bfloat16"] = ("auto", "bfloat16")
FORMS = ("matmul", "plain", *TILED, "open_clip")
# Rows and columns of the matrix product that measures the roof.
ROOF_SIDE = 4096
WARM_UP_PAIRS = 512
TEMPERATURE = 1 / 64


def embeddings(count, width):
    """Returns two float32 arrays of unit rows. The rows of a pair are similar."""
    import numpy as np

    random = np.random.default_rng(0)
    images = random.standard_normal((count, width), np.float32)
    texts = random.standard_normal((count, width), np.float32)
    texts += images / 3
    for rows in (images, texts):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return images, texts


def tensorflow_step(form, count, width):
    """Returns a function that computes the loss and its gradients once."""
    import tensorflow as tf

    from align_keras.losses import contrastive_loss

    if form == "matmul":
        images, texts = map(tf.constant, embeddings(ROOF_SIDE, width))
        product = tf.function(lambda a, b: tf.matmul(a, b, transpose_b=True))
        return lambda: product(images, texts)
    tile_size, matmul_dtype = TILED.get(form, (None, None))

    @tf.function
    def step(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = contrastive_loss(
                *arguments,
                label_smoothing=0.0,
                tile_size=tile_size,
                matmul_dtype=matmul_dtype,
            )
        return loss, tape.gradient(loss, arguments)

    arguments = [*map(tf.constant, embeddings(count, width)), tf.constant(TEMPERATURE)]
    step.get_concrete_function(*arguments)
    return lambda: float(step(*arguments)[0])


def torch_step(count, width):
    """Returns a function that computes open_clip's loss and its gradients once."""
    import torch
    from open_clip.loss import ClipLoss

    arguments = [torch.from_numpy(rows) for rows in embeddings(count, width)]
    arguments.append(torch.tensor(1 / TEMPERATURE))
    for argument in arguments:
        argument.requires_grad_()
    loss = ClipLoss()

    def step():
        value = loss(*arguments)
        torch.autograd.grad(value, arguments)
        return value.item()

    return step


def step_of(form, count, width):
    """Returns a function that runs a form of the loss in TensorFlow or torch."""
    if form == "open_clip":
        return torch_step(count, width)
    return tensorflow_step(form, count, width)


def work(form, count, width):
    """Runs one repetition of a form for each line on standard input."""
    try:
        # A small batch loads and compiles the code, so that the measurement excludes
        # it.
        step_of(form, WARM_UP_PAIRS, width)()
    except ImportError as error:
        sys.exit(f"{form} is skipped: {error}")
    step = step_of(form, count, width)
    gc.collect()
    # Resets the peak, because creating the embeddings may have needed more memory.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = memory("VmRSS")
    serve(lambda _: (*timed(step), memory("VmHWM") - start))


def measure(count, width, names, repetitions):
    """Prints a line for each form with a batch of `count` pairs."""
    options = ["--sizes", count, "--width", width]
    results = take_turns(
        {name: [__file__, "--serve", name, *options] for name in names},
        # The first repetition is a warm-up. Only its memory counts.
        1 + repetitions,
        optional=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    medians = {
        name: [
            statistics.median(result[kind] for result in repeats[1:]) for kind in (0, 1)
        ]
        for name, repeats in results.items()
    }
    roofs = [2 * ROOF_SIDE**2 * width / seconds for seconds in medians.pop("matmul")]
    print(f"\nN = {count}, width {width}, float32, loss and gradients")
    print(f"matmul roof: {roofs[0] / 1e9:.0f} | {roofs[1] / 1e9:.0f} GFLOP/s")
    print(f"{'form':20} {'seconds':>15} {'GiB':>6} {'% of roof':>11} {'ratio':>13}")
    for name, times in medians.items():
        operations = 4 * 2 * count**2 * width
        shares = [100 * operations / t / r for t, r in zip(times, roofs, strict=True)]
        line = f"{name:20} {times[0]:6.2f} | {times[1]:6.2f}"
        line += f" {results[name][0][2] / 2**30:6.2f}"
        line += f" {shares[0]:4.0f} | {shares[1]:4.0f}"
        if "open_clip" in medians:
            wall, cpu = medians["open_clip"]
            line += f" {wall / times[0]:5.2f} | {cpu / times[1]:5.2f}"
        print(line, flush=True)


def measure_memory(counts, width):
    """Prints the memory and the time of the tiled loss for each batch size."""
    form = "tiled 2048"
    titles = ("pairs", "GiB", "KiB per pair", "logits GiB", "seconds")
    print(f"{form}, loss and gradients, width {width}, float32")
    print("{:>9} {:>6} {:>13} {:>11} {:>17}".format(*titles))
    for count in counts:
        options = ["--sizes", count, "--width", width]
        results = take_turns(
            {form: [__file__, "--serve", form, *options]},
            1,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        wall, cpu, peak = results[form][0]
        line = f"{count:9,} {peak / 2**30:6.2f} {peak / 2**10 / count:13.2f}"
        line += f" {4 * count**2 / 2**30:11.1f} {wall:8.0f} | {cpu:6.0f}"
        print(line, flush=True)


def main():
    """Measures each size, or runs the process of a form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=positive, nargs="*", default=[4096, 8192, 16384]
    )
    parser.add_argument(
        "--large",
        type=positive,
        help="batch size of a further measurement of the tiled forms",
    )
    parser.add_argument(
        "--memory",
        type=positive,
        nargs="+",
        help="batch sizes of a measurement of the memory only",
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS[1:], default=FORMS[1:])
    parser.add_argument("--width", type=positive, default=640)
    parser.add_argument("--repetitions", type=positive, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        work(arguments.serve, arguments.sizes[0], arguments.width)
        return
    if arguments.memory:
        measure_memory(arguments.memory, arguments.width)
        return
    for count in arguments.sizes:
        names = ("matmul", *arguments.forms)
        measure(count, arguments.width, names, arguments.repetitions)
    if arguments.large:
        tiled = ("tiled auto", "tiled auto bfloat16")
        names = ("matmul", *(form for form in arguments.forms if form in tiled))
        measure(arguments.large, arguments.width, names, 1)


if __name__ == "__main__":
    run_benchmark(main)

"""Time and memory of the contrastive loss with all its gradients, by form.

    python tools/benchmarks/bench_loss.py [--sizes 4096 8192 16384] [--large 65536]

Each form runs in a process of its own, so that its peak memory is its own; the
repetitions are interleaved, and the medians are printed. GiB is the peak over what
the process held with its embeddings and all code loaded (Linux only). `ratio` is the
time of open_clip's ClipLoss in torch (left out if it isn't installed) over the form's.
The share of the roof counts four matrix products of 2·N²·width operations, the
least that a form needs which doesn't hold the logits; a form that holds them
needs three and can pass 100%. Times are wall | CPU; where other programs
compute, only the CPU times mean something.
"""

import argparse
import gc
import os
import pathlib
import statistics
import sys

from turns import memory, serve, take_turns, timed

TILED = {"tiled auto": ("auto", None), "tiled 2048": (2048, None)}
TILED["tiled auto bfloat16"] = ("auto", "bfloat16")
FORMS = ("matmul", "plain", *TILED, "open_clip")
ROOF_SIDE = 4096
WARM_UP_PAIRS = 512
TEMPERATURE = 1 / 64


def embeddings(count, width):
    """Two float32 arrays of unit rows, pair by pair somewhat alike."""
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
    """As `tensorflow_step`, for open_clip's ClipLoss."""
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
    """Returns a form's function, in TensorFlow or in torch."""
    if form == "open_clip":
        return torch_step(count, width)
    return tensorflow_step(form, count, width)


def work(form, count, width):
    """A form's process: one repetition for each line on standard input."""
    try:
        # Loads and compiles what any batch needs, so that what is measured is
        # the batch's.
        step_of(form, WARM_UP_PAIRS, width)()
    except ImportError as error:
        sys.exit(f"{form}: left out, {error}")
    step = step_of(form, count, width)
    gc.collect()
    # Making the embeddings may have held more than is held now.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = memory("VmRSS")
    serve(lambda _: (*timed(step), memory("VmHWM") - start))


def measure(count, width, names, repetitions):
    """Prints one line a form for a batch of `count` pairs."""
    options = ["--sizes", count, "--width", width]
    answers = take_turns(
        {name: [__file__, "--serve", name, *options] for name in names},
        1 + repetitions,  # The first is a warm-up, whose memory counts.
        optional=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    medians = {
        name: [
            statistics.median(answer[kind] for answer in found[1:]) for kind in (0, 1)
        ]
        for name, found in answers.items()
    }
    roofs = [2 * ROOF_SIDE**2 * width / seconds for seconds in medians.pop("matmul")]
    print(f"\nN = {count}, width {width}, float32, loss and gradients")
    print(f"matmul roof: {roofs[0] / 1e9:.0f} | {roofs[1] / 1e9:.0f} GFLOP/s")
    print(f"{'form':20} {'seconds':>15} {'GiB':>6} {'% of roof':>11} {'ratio':>13}")
    for name, times in medians.items():
        work = 4 * 2 * count**2 * width
        shares = [100 * work / t / r for t, r in zip(times, roofs, strict=True)]
        line = f"{name:20} {times[0]:6.2f} | {times[1]:6.2f}"
        line += f" {answers[name][0][2] / 2**30:6.2f}"
        line += f" {shares[0]:4.0f} | {shares[1]:4.0f}"
        if "open_clip" in medians:
            wall, cpu = medians["open_clip"]
            line += f" {wall / times[0]:5.2f} | {cpu / times[1]:5.2f}"
        print(line, flush=True)


def main():
    """Measures each size, or serves as one form's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[4096, 8192, 16384])
    parser.add_argument("--large", type=int, help="a batch for the tiled forms only")
    parser.add_argument("--forms", nargs="+", choices=FORMS[1:], default=FORMS[1:])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        work(arguments.serve, arguments.sizes[0], arguments.width)
        return
    for count in arguments.sizes:
        names = ("matmul", *arguments.forms)
        measure(count, arguments.width, names, arguments.repetitions)
    if arguments.large:
        tiled = ("tiled auto", "tiled auto bfloat16")
        names = ("matmul", *(form for form in arguments.forms if form in tiled))
        measure(arguments.large, arguments.width, names, 1)


if __name__ == "__main__":
    main()

"""Compares the speed of this package with `transformers.AlignModel` in torch.

    python tools/benchmarks/bench_train.py             # B0@128 and B3@224, ~8 minutes
    python tools/benchmarks/bench_train.py --architectures b0@128 --measures train
    python tools/benchmarks/bench_train.py --compile   # torch.compile too, in minutes

Each contender runs in a separate process. The processes take turns, and only one works
at a time, so that background load affects all of them equally. The table shows the
median wall time and CPU time over the rounds, and the ratio of the median of torch
channels_last to that of the row. Wall times are meaningful only if nothing else runs.
OpenVINO and LiteRT use all processors and ignore --threads.

Measures:

- `train`: forward pass, loss, backward pass and AdamW,
- `image`: image encoder on decoded pixels,
- `both`: image encoder and text encoder.

Weights are random. Captions have 64 tokens. With --longest-caption N, they have 3 to N
tokens and padding up to 64, which the training step of this package cuts off.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile

from harness import Worker, positive, run_benchmark, serve, timed

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = "torch channels_last"
# Each name is a library, followed by a variant of it.
CONTENDERS = (
    "torch eager",
    REFERENCE,
    "torch bfloat16",
    "torch compile",
    "keras float32",
    "keras mixed_bfloat16",
    "keras openvino",
    "keras openvino_bfloat16",
    "keras litert_int8",
)
# Contenders that run only on request.
OPTIONAL = {"torch compile", "keras mixed_bfloat16"}
# Settings that make glibc's malloc reuse large blocks. By default it returns them to
# the system and faults them in again. That takes torch more time than its arithmetic on
# some machines.
MALLOC_SETTINGS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
SEQUENCE_LENGTH = 64
VOCABULARY_SIZE = 30522
# Layers, width, heads and feed-forward width of BERT-mini.
TEXT = (4, 256, 4, 1024)
# Width and depth coefficients of EfficientNet, image size, width of the last block.
ARCHITECTURES = {
    "b0@128": (1.0, 1.0, 128, 320),
    "b3@224": (1.2, 1.4, 224, 384),
    "nano@32": (0.25, 0.3, 32, 80),
}
MEASURES = ("train", "image", "both")


def random_inputs(architecture, batch_size, longest_caption):
    """Returns gray levels (n, S, S, 3), token ids (n, L) and their mask (n, L)."""
    import numpy as np

    random = np.random.default_rng(0)
    size = ARCHITECTURES[architecture][2]
    pixels = random.integers(0, 256, (batch_size, size, size, 3)).astype("float32")
    token_ids = random.integers(5, VOCABULARY_SIZE, (batch_size, SEQUENCE_LENGTH))
    lengths = np.full(batch_size, SEQUENCE_LENGTH)
    if longest_caption is not None:
        lengths = random.integers(3, longest_caption + 1, batch_size)
        lengths[0] = longest_caption
    mask = np.arange(SEQUENCE_LENGTH) < lengths[:, None]
    return pixels, np.where(mask, token_ids, 0), mask


def keras_align(architecture):
    """Builds this package's model."""
    from align_keras.models import ALIGN, ImageEncoder, TextEncoder

    width, depth, size, projection_dim = ARCHITECTURES[architecture]
    layers, hidden, heads, intermediate = TEXT
    return ALIGN.from_encoders(
        ImageEncoder(width_coefficient=width, depth_coefficient=depth, image_size=size),
        TextEncoder(
            vocabulary_size=VOCABULARY_SIZE,
            num_layers=layers,
            hidden_dim=hidden,
            num_heads=heads,
            intermediate_dim=intermediate,
            projection_dim=projection_dim,
            sequence_length=SEQUENCE_LENGTH,
        ),
    )


def calibrate_keras(model, images):
    """Sets the moving statistics of batch normalization to those of the batch.

    With the initial statistics the signal of a random network fades to denormal
    numbers, which some libraries process slowly.
    """
    import keras

    norms = [
        layer
        for layer in model.image_encoder._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 0.0
    model.image_encoder(images, training=True)
    for norm in norms:
        norm.momentum = momentum


def keras_measures(variant, architecture, batch_size, threads, longest_caption):
    """Returns the functions of this package: dict of measure → function.

    Runtimes other than TensorFlow only have `image`.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    from align_keras.losses import ContrastiveLoss
    from align_keras.optimizers import AdamW

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(0)
    if variant == "mixed_bfloat16":
        keras.config.set_dtype_policy(variant)
    pixels, token_ids, mask = random_inputs(architecture, batch_size, longest_caption)
    inputs = {
        "images": tf.constant(pixels),
        "token_ids": tf.constant(token_ids, tf.int32),
        "padding_mask": tf.constant(mask, tf.int32),
    }
    model = keras_align(architecture)
    calibrate_keras(model, inputs["images"])
    if variant not in ("float32", "mixed_bfloat16"):
        from align_keras import load_model

        with tempfile.TemporaryDirectory() as folder:
            runtime = variant
            if variant == "litert_int8":
                runtime = int8_file(model, pixels, folder)
            embed = load_model(model, runtime).image_tower()
        return {"image": lambda: embed(pixels)}
    # The training step of Keras, without the overhead of starting an epoch.
    model.compile(AdamW(1e-3), ContrastiveLoss(reduction="mean"))
    model.build_optimizer()
    step = tf.function(model.train_step)
    both = tf.function(lambda batch: model(batch, training=False))
    image = tf.function(lambda batch: model.image_encoder(batch, training=False))
    return {
        "train": lambda: float(step((inputs,))["loss"]),
        "image": lambda: np.asarray(image(inputs["images"])),
        "both": lambda: np.asarray(both(inputs)["similarity"]),
    }


def int8_file(model, pixels, folder):
    """Writes the int8 image tower in the same way as `align-keras export`."""
    from align_keras.export.litert import image_flatbuffer

    path = pathlib.Path(folder, "image.tflite")
    path.write_bytes(image_flatbuffer(model, "int8", pixels))
    return path


def torch_align(architecture):
    """Builds `transformers.AlignModel` with random weights."""
    from transformers import AlignConfig, AlignModel

    width, depth, _, projection_dim = ARCHITECTURES[architecture]
    layers, hidden, heads, intermediate = TEXT
    text = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": SEQUENCE_LENGTH,
    }
    vision = {"width_coefficient": width, "depth_coefficient": depth}
    return AlignModel(
        AlignConfig(
            text_config=text, vision_config=vision, projection_dim=projection_dim
        )
    )


def calibrate_torch(model, pixels):
    """Sets the moving statistics of a torch model to those of the batch."""
    import torch

    vision = model.vision_model.train()
    norms = [m for m in vision.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        vision(pixels)
    for norm in norms:
        norm.momentum = momentum


def torch_measures(variant, architecture, batch_size, threads, longest_caption):
    """Returns the functions of transformers: dict of measure → function."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels, token_ids, mask = random_inputs(architecture, batch_size, longest_caption)
    pixels = (torch.tensor(pixels) / 127.5 - 1.0).permute(0, 3, 1, 2)
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    model = torch_align(architecture).to(memory_format=layout)
    inputs = {
        "pixel_values": pixels.contiguous(memory_format=layout),
        "input_ids": torch.tensor(token_ids),
        "attention_mask": torch.tensor(mask, dtype=torch.long),
    }
    calibrate_torch(model, inputs["pixel_values"])
    # The fused kernel is the fastest AdamW of torch.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=1e-5, fused=True
    )
    call, vision = model, model.get_image_features
    if variant == "compile":
        call, vision = torch.compile(model), torch.compile(vision)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=variant == "bfloat16")

    def train():
        model.train()
        with autocast:
            loss = call(**inputs, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def infer(function, **arguments):
        model.eval()
        with torch.inference_mode(), autocast:
            return function(**arguments)

    return {
        "train": train,
        "image": lambda: infer(vision, pixel_values=inputs["pixel_values"]),
        "both": lambda: infer(call, **inputs),
    }


def work(arguments):
    """Prints a contender's seconds per step for each input line `MEASURE STEPS`."""
    library, variant = arguments.worker.split()
    make = {"keras": keras_measures, "torch": torch_measures}[library]
    architecture = arguments.architectures[0]
    functions = make(
        variant,
        architecture,
        arguments.batch_size,
        arguments.threads,
        arguments.longest_caption,
    )
    measures = {
        name: functions[name] for name in arguments.measures if name in functions
    }
    for function in measures.values():
        for _ in range(2):
            function()

    def measure(line):
        name, steps = line.split()
        seconds = timed(lambda: [measures[name]() for _ in range(int(steps))])
        return [value / int(steps) for value in seconds]

    serve(measure, sorted(measures))


def start(contender, arguments, architecture):
    """Starts the process of a contender, and waits until it has warmed up."""
    options = ["--architectures", architecture, "--batch-size", arguments.batch_size]
    options += ["--threads", arguments.threads, "--measures", *arguments.measures]
    if arguments.longest_caption is not None:
        options += ["--longest-caption", arguments.longest_caption]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(arguments.threads),
        **(MALLOC_SETTINGS if arguments.keep_memory else {}),
    }
    stderr = None if arguments.verbose else subprocess.DEVNULL
    command = [__file__, "--worker", contender, *options]
    name = f"{architecture}: {contender}"
    worker = Worker(name, command, env=environment, stderr=stderr)
    if worker.ready is None:
        raise SystemExit(
            f"{contender} could not be started. Add --verbose to see its messages."
        )
    return worker


def measure_contenders(arguments, architecture):
    """Returns a dict of (measure, contender) → list of (wall, CPU) seconds."""
    workers, turns = {}, {}
    try:
        # The contenders start one after the other, so that no other one disturbs a
        # warm-up.
        for contender in arguments.contenders:
            workers[contender] = start(contender, arguments, architecture)
        for measure in arguments.measures:
            steps = arguments.steps * (1 if measure == "train" else 3)
            for _ in range(arguments.rounds):
                for contender, worker in workers.items():
                    if measure in worker.ready:
                        turn = worker.turn(f"{measure} {steps}")
                        turns.setdefault((measure, contender), []).append(turn)
        return turns
    finally:
        for worker in workers.values():
            worker.close()


def table(turns, architecture, batch_size):
    """Returns the medians as a Markdown table."""
    medians = {
        key: [statistics.median(column) for column in zip(*rows, strict=True)]
        for key, rows in turns.items()
    }
    lines = [
        "| architecture | measure | contender | images/s | wall ms | CPU ms "
        "| wall ratio | CPU ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (measure, contender), (wall, cpu) in medians.items():
        base = medians.get((measure, REFERENCE))
        ratios = [f"{base[0] / wall:.2f}", f"{base[1] / cpu:.2f}"] if base else ["", ""]
        cells = [
            architecture,
            measure,
            contender,
            f"{batch_size / wall:.1f}",
            f"{wall * 1000:.0f}",
            f"{cpu * 1000:.0f}",
            *ratios,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument(
        "--compile", action="store_true", help="measure torch.compile too"
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="make malloc keep freed memory, as the tuning guide of torch recommends",
    )
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument(
        "--longest-caption",
        type=positive,
        metavar="N",
        help="use captions of 3 to N tokens with padding, instead of 64 tokens",
    )
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--steps", type=positive, default=1, help="training steps per turn"
    )
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.architectures = arguments.architectures or ["b0@128", "b3@224"]
    if not arguments.contenders:
        optional = OPTIONAL - ({"torch compile"} if arguments.compile else set())
        arguments.contenders = [c for c in CONTENDERS if c not in optional]
    return arguments


def main(argv=None):
    """Prints a table for each architecture."""
    arguments = parse(argv)
    if arguments.worker:
        return work(arguments)
    for architecture in arguments.architectures:
        turns = measure_contenders(arguments, architecture)
        print(table(turns, architecture, arguments.batch_size), flush=True)


if __name__ == "__main__":
    run_benchmark(main)

"""One contender of `bench_train.py`: builds its model and measures on request.

A line `MEASURE STEPS` on standard input is answered by one line of JSON with the
wall and CPU seconds a step. Between its turns the process waits for a line.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

SEQUENCE_LENGTH = 64
VOCABULARY_SIZE = 30522
# Layers, width, heads, feed-forward width of BERT-mini.
TEXT = (4, 256, 4, 1024)
# EfficientNet's width and depth, image size, width of the last block.
ARCHITECTURES = {
    "b0@128": (1.0, 1.0, 128, 320),
    "b3@224": (1.2, 1.4, 224, 384),
    "nano@32": (0.25, 0.3, 32, 80),
}
MEASURES = ("train", "image", "both")


def random_inputs(architecture, batch_size):
    """Returns gray levels (n, S, S, 3) and token ids (n, L) as NumPy arrays."""
    import numpy as np

    random = np.random.default_rng(0)
    size = ARCHITECTURES[architecture][2]
    pixels = random.integers(0, 256, (batch_size, size, size, 3)).astype("float32")
    return pixels, random.integers(5, VOCABULARY_SIZE, (batch_size, SEQUENCE_LENGTH))


def keras_align(architecture):
    """Builds this package's model."""
    from align_keras.models import ALIGN, ImageEncoder, TextEncoder

    width, depth, size, projection_dim = ARCHITECTURES[architecture]
    layers, hidden, heads, intermediate = TEXT
    return ALIGN(
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
    """Fits the moving statistics to the batch.

    A random network without them loses its signal, and computing with the
    denormal numbers that are left is slow on some libraries.
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


def keras_measures(variant, architecture, batch_size, threads):
    """Returns this package's functions by measure; an engine has `image` only."""
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
    pixels, token_ids = random_inputs(architecture, batch_size)
    inputs = {
        "images": tf.constant(pixels),
        "token_ids": tf.constant(token_ids, tf.int32),
        "padding_mask": tf.ones(token_ids.shape, tf.int32),
    }
    model = keras_align(architecture)
    calibrate_keras(model, inputs["images"])
    if variant not in ("float32", "mixed_bfloat16"):
        from align_keras.models import image_embedder

        if variant == "litert_int8":
            with tempfile.TemporaryDirectory() as folder:
                embed = image_embedder(model, int8_file(model, pixels, folder))
        else:
            embed = image_embedder(model, engine=variant)
        return {"image": lambda: embed(pixels)}
    # Keras's own loop over one batch, without its start-up of an epoch.
    model.compile(AdamW(1e-3), ContrastiveLoss(reduction="mean"))
    step = tf.function(model.train_step)
    both = tf.function(lambda batch: model(batch, training=False))
    image = tf.function(lambda batch: model.image_encoder(batch, training=False))
    return {
        "train": lambda: float(step((inputs,))["loss"]),
        "image": lambda: np.asarray(image(inputs["images"])),
        "both": lambda: np.asarray(both(inputs)["similarity"]),
    }


def int8_file(model, pixels, folder):
    """Writes the image tower in integers, as `align-keras export` does."""
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
    """As `calibrate_keras`."""
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


def torch_measures(variant, architecture, batch_size, threads):
    """Returns transformers' functions by measure."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels, token_ids = random_inputs(architecture, batch_size)
    pixels = (torch.tensor(pixels) / 127.5 - 1.0).permute(0, 3, 1, 2)
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    model = torch_align(architecture).to(memory_format=layout)
    inputs = {
        "pixel_values": pixels.contiguous(memory_format=layout),
        "input_ids": torch.tensor(token_ids),
        "attention_mask": torch.ones(token_ids.shape, dtype=torch.long),
    }
    calibrate_torch(model, inputs["pixel_values"])
    # The fused kernel is torch's fastest AdamW.
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

    def inferred(function, **arguments):
        model.eval()
        with torch.inference_mode(), autocast:
            return function(**arguments)

    return {
        "train": train,
        "image": lambda: inferred(vision, pixel_values=inputs["pixel_values"]),
        "both": lambda: inferred(call, **inputs),
    }


def answer(measures):
    """Warms up, reports itself ready and measures until the input ends."""
    for name in measures:
        for _ in range(2):
            measures[name]()
    print(json.dumps(sorted(measures)), flush=True)
    for line in sys.stdin:
        name, steps = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(steps)):
            measures[name]()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps([seconds / int(steps) for seconds in spent]), flush=True)


def main():
    """Runs as `bench_train_worker.py LIBRARY VARIANT ARCHITECTURE BATCH THREADS …`."""
    library, variant, architecture, batch_size, threads, *wanted = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = threads
    make = {"keras": keras_measures, "torch": torch_measures}[library]
    # What libraries print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    measures = make(variant, architecture, int(batch_size), int(threads))
    sys.stdout = answers
    answer({name: measures[name] for name in wanted if name in measures})


if __name__ == "__main__":
    main()

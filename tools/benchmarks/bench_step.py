"""Measures where the CPU time of a training step goes, by kind of operation.

    python tools/benchmarks/bench_step.py                          # B0@128, 1 minute
    python tools/benchmarks/bench_step.py --optimizer muon --longest-caption 16

The step runs in one thread with TensorFlow's profiler, so the duration of an operation
is its CPU time. The table shows milliseconds and operations per step. The models and
the batches are those of bench_train.py. To measure an older commit, set PYTHONPATH to
its checkout.
"""

import argparse
import collections
import pathlib
import re
import tempfile

from bench_train import (
    ARCHITECTURES,
    calibrate_keras,
    keras_align,
    random_inputs,
)
from harness import positive, run_benchmark

OPTIMIZERS = {"adamw": "AdamW", "lamb": "Lamb", "muon": "Muon", "sgd": "SGD"}
# Type of operation, without the prefix of a library → kind.
KINDS = {
    "MatMul": "matrix products",
    "BatchMatMulV2": "matrix products",
    "DepthwiseConv2dNative": "depthwise convolutions, forward",
    "DepthwiseConv2dNativeBackpropInput": "depthwise convolutions, input gradients",
    "DepthwiseConv2dNativeBackpropFilter": "depthwise convolutions, filter gradients",
    "Conv2D": "other convolutions, forward",
    "Conv2DBackpropInput": "other convolutions, input gradients",
    "Conv2DBackpropFilter": "other convolutions, filter gradients",
    "BatchNormV3": "batch normalization, forward",
    "BatchNormGradV3": "batch normalization, gradients",
    "Swish": "activations of the image encoder",
}
REST = "other operations"
# Events of TensorFlow's executor, which contain the operations.
EXECUTOR = "ExecutorState"


def kind_of(path, operation):
    """Returns the kind of an operation with a path in the graph."""
    if "ResourceApply" in operation or re.search(r"/(adamw|lamb|muon|sgd)/", path):
        return "optimizer"
    if "dropout" in path or "drop_connect" in path or "Random" in operation:
        return "dropout"
    if operation == "multiply_multiply_fusion":
        # TensorFlow compiles the gradient of swish into one operation.
        return KINDS["Swish"]
    kind = KINDS.get(re.sub("^_(Mkl)?(Native)?|Fused", "", operation), REST)
    if kind != REST:
        return kind
    if "layer_norm" in path:
        return "layer normalization"
    if "image_encoder" in path:
        return "rest of the image encoder"
    return "rest of the text encoder" if "text_encoder" in path else REST


def add_arguments(parser):
    """Adds the options that choose the step."""
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="b0@128")
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--longest-caption", type=positive)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="lamb")
    parser.add_argument("--steps", type=positive, default=5)


def make_step(arguments):
    """Returns a function that makes one training step."""
    import keras
    import tensorflow as tf

    from align_keras import optimizers
    from align_keras.losses import ContrastiveLoss

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    pixels, token_ids, mask = random_inputs(
        arguments.architecture, arguments.batch_size, arguments.longest_caption
    )
    inputs = {
        "images": tf.constant(pixels),
        "token_ids": tf.constant(token_ids, tf.int32),
        "padding_mask": tf.constant(mask, tf.int32),
    }
    model = keras_align(arguments.architecture)
    calibrate_keras(model, inputs["images"])
    optimizer = getattr(optimizers, OPTIMIZERS[arguments.optimizer])(1e-3)
    model.compile(optimizer, ContrastiveLoss(reduction="mean"))
    model.build_optimizer()
    step = tf.function(model.train_step)
    return lambda: float(step((inputs,))["loss"])


def profile(step, steps):
    """Returns the paths, operations and milliseconds of all events of the steps."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for _ in range(2):
        step()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            step()
        tf.profiler.experimental.stop()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    events = []
    for plane in space.planes:
        for line in plane.lines:
            # The other lines are those of Python.
            if "tf_Compute" not in line.name:
                continue
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if not name.startswith(EXECUTOR):
                    path, _, operation = name.rpartition(":")
                    events.append((path, operation, event.duration_ps / 1e9))
    return events


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    events = profile(make_step(arguments), arguments.steps)
    milliseconds = collections.Counter()
    operations = collections.Counter()
    for path, operation, duration in events:
        kind = kind_of(path, operation)
        milliseconds[kind] += duration / arguments.steps
        operations[kind] += 1
    total = sum(milliseconds.values())
    print(f"{'kind of operation':40} {'CPU ms':>7} {'share':>6} {'operations':>11}")
    for kind, duration in milliseconds.most_common():
        count = operations[kind] // arguments.steps
        print(f"{kind:40} {duration:7.0f} {duration / total:6.0%} {count:11,}")
    count = len(events) // arguments.steps
    print(f"{'all':40} {total:7.0f} {'100%':>6} {count:11,}")


if __name__ == "__main__":
    run_benchmark(main)

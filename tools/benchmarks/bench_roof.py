"""Compares the matrix products of a training step with the peak of the processor.

    python tools/benchmarks/bench_roof.py                          # B0@128, 1 minute

The peak is the rate of a product of two matrices of 2,048 × 2,048 float32 numbers with
TensorFlow, measured before and after the step, or the rate of a row of the table if it
is higher. The step runs in one thread, and the options are those of bench_step.py.
Columns:

- GFLOP: floating-point operations of a step, two for each multiplication. A gradient
  of the inputs and one of the weights have as many as the forward pass.
- CPU ms and GFLOP/s: measured time and rate.
- ms at the peak: time at the rate of the peak.

The last lines are the time of the whole step, as it is and if these operations ran at
the peak. The step cannot be faster without a change of the others.
"""

import argparse
import collections
import math
import time

import bench_step
from bench_train import ARCHITECTURES, SEQUENCE_LENGTH, TEXT, keras_align

SIZE = 2048
PRODUCTS = "matrix products"
CONVOLUTIONS = "convolutions that are not depthwise"


def measure_peak():
    """Returns the rate of a large matrix product in one thread, in GFLOP/s."""
    import tensorflow as tf

    matrix = tf.random.normal((SIZE, SIZE))
    times = []
    for _ in range(12):
        start = time.process_time()
        tf.matmul(matrix, matrix)
        times.append(time.process_time() - start)
    return 2 * SIZE**3 / min(times) / 1e9


def text_gigaflops(batch_size):
    """Returns the operations of the transformer layers in one forward pass."""
    layers, hidden, _, intermediate = TEXT
    tokens = batch_size * SEQUENCE_LENGTH
    dense = 4 * hidden**2 + 2 * hidden * intermediate
    attention = 2 * SEQUENCE_LENGTH * hidden
    return 2 * layers * tokens * (dense + attention) / 1e9


def convolution_gigaflops(architecture, batch_size):
    """Returns the operations of the convolutions in one forward pass."""
    import tensorflow as tf

    encoder = keras_align(architecture).image_encoder
    function = tf.function(lambda images: encoder(images, training=True))
    size = ARCHITECTURES[architecture][2]
    images = tf.TensorSpec((batch_size, size, size, 3))
    operations = function.get_concrete_function(images).graph.get_operations()
    total = 0
    for convolution in operations:
        if convolution.type == "Conv2D":
            # The last axis of a kernel is also in the outputs.
            outputs = convolution.outputs[0].shape.num_elements()
            total += 2 * outputs * math.prod(convolution.inputs[1].shape[:3])
    return total / 1e9


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench_step.add_arguments(parser)
    arguments = parser.parse_args()
    step = bench_step.make_step(arguments)
    peaks = [measure_peak()]
    events = bench_step.profile(step, arguments.steps)
    peaks.append(measure_peak())
    milliseconds = collections.Counter()
    for path, operation, duration in events:
        kind = bench_step.kind_of(path, operation)
        kind = CONVOLUTIONS if kind.startswith("other convolutions") else kind
        milliseconds[kind] += duration / arguments.steps
    gigaflops = {
        PRODUCTS: 3 * text_gigaflops(arguments.batch_size),
        CONVOLUTIONS: 3
        * convolution_gigaflops(arguments.architecture, arguments.batch_size),
    }
    rates = {
        kind: 1000 * count / milliseconds[kind] for kind, count in gigaflops.items()
    }
    peak = max(*peaks, *rates.values())
    print(f"peak: {peak:.0f} GFLOP/s. A large product: {max(peaks):.0f} GFLOP/s\n")
    print("| operations | GFLOP | CPU ms | GFLOP/s | ms at the peak |")
    print("|---|---|---|---|---|")
    total = sum(milliseconds.values())
    least = total
    for kind, count in gigaflops.items():
        at_peak = 1000 * count / peak
        least += at_peak - milliseconds[kind]
        print(
            f"| {kind} | {count:.1f} | {milliseconds[kind]:.0f} | {rates[kind]:.0f} | "
            f"{at_peak:.0f} |"
        )
    print(f"| all | | {total:.0f} | | {least:.0f} |")


if __name__ == "__main__":
    main()

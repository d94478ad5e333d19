"""Compares how the package reads a large photo with the fastest reduced decoders.

    python tools/benchmarks/bench_decode.py [--rounds 9]

The photographs of scikit-learn are enlarged to 12 megapixels. An index resizes a photo
to 183 × 183 pixels for `align_small_en`. The decoders take turns in one process, and
the table shows medians of CPU time. `scale 1/8` decodes one pixel of eight in each
direction, which uses a single coefficient of each block. All coefficients must still be
read, because their codes have different lengths.
"""

import argparse
import io
import statistics
import time

import bench_images
import cv2
import numpy as np
from PIL import Image

from align_keras.embedders.pixels import square_pixels

SIZE = (4000, 3000)
RESIZE_TO = 183


def decode_reduced(content):
    """Decodes a JPEG with Pillow at the scale that an index uses."""
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (2 * RESIZE_TO, 2 * RESIZE_TO))
    image.load()


def decode(content):
    """Decodes a JPEG with Pillow at its size."""
    Image.open(io.BytesIO(content)).load()


def decode_by_opencv(content):
    """Decodes a JPEG with OpenCV at the scale 1/8."""
    cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)


def read(content):
    """Reads a JPEG as an index does."""
    square_pixels(content, RESIZE_TO)


DECODERS = {
    "Pillow": decode,
    "Pillow, scale 1/8": decode_reduced,
    "OpenCV, scale 1/8": decode_by_opencv,
    "the package, with its checks and the resize": read,
}


def main():
    """Prints a row for each decoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    contents = bench_images.photographs(SIZE)[:2]
    megabytes = sum(map(len, contents)) / len(contents) / 1e6
    print(f"{SIZE[0]} × {SIZE[1]} pixels, {megabytes:.1f} MB on average\n")
    cv2.setNumThreads(1)
    times = {name: [] for name in DECODERS}
    for _ in range(arguments.rounds):
        for name, decoder in DECODERS.items():
            start = time.process_time()
            for content in contents:
                decoder(content)
            times[name].append((time.process_time() - start) / len(contents))
    print("| decoder | CPU ms per photo |\n|---|---|")
    for name, values in times.items():
        print(f"| {name} | {1000 * statistics.median(values):.1f} |")


if __name__ == "__main__":
    main()

"""Compares the time to store an image of a corpus with the time to decode it.

    python tools/benchmarks/bench_images.py [--rounds 7] [--squares]

The two photographs of scikit-learn are resized to each size. `align-keras corpus`
decodes, checks, resizes, encodes and hashes an image. The benchmark compares this with
Pillow's decoding alone. Both take turns in one process, and the table shows medians of
CPU time.
"""

import argparse
import io
import statistics
import time

SIZES = ((640, 427), (720, 540), (1024, 768), (1600, 1200), (2400, 1600))
COPIES = 10


def photographs(size):
    """Returns JPEG files of one size, with noise like that of a camera."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    contents = []
    for number in range(COPIES):
        image = Image.fromarray(load_sample_images().images[number % 2])
        pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32)
        pixels = pixels + random.normal(0, 4, pixels.shape)
        file = io.BytesIO()
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def milliseconds(function, contents):
    """Returns the CPU time per image in milliseconds."""
    start = time.process_time()
    for content in contents:
        function(content)
    return 1000 * (time.process_time() - start) / len(contents)


def main():
    """Prints a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--squares",
        action="store_true",
        help="store squares (images.keep_aspect=false)",
    )
    arguments = parser.parse_args()
    from PIL import Image

    from align_keras.config.corpus_config import ImagesConfig
    from align_keras.corpus.image_tables import store_image

    form = ImagesConfig()

    def store(content):
        store_image(
            content, form.shorter_side, form.quality, keep_aspect=not arguments.squares
        )

    def decode(content):
        Image.open(io.BytesIO(content)).load()

    print("| images | KB | decode, ms | store, ms | decode / store |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        contents = photographs(size)
        times = [
            (milliseconds(decode, contents), milliseconds(store, contents))
            for _ in range(arguments.rounds)
        ]
        decoded, stored = (
            statistics.median(column) for column in zip(*times, strict=True)
        )
        ratio = statistics.median(decode_ms / store_ms for decode_ms, store_ms in times)
        kilobytes = sum(map(len, contents)) / len(contents) / 1000
        print(
            f"| {size[0]} × {size[1]} | {kilobytes:.0f} | {decoded:.2f} | "
            f"{stored:.2f} | {ratio:.0%} |"
        )


if __name__ == "__main__":
    main()

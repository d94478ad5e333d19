"""Compares training input from tar and Parquet files with that from a built corpus.

    python tools/benchmarks/bench_sources.py [--count 4000] [--rounds 5]
        [--latency 0.05]

The same JPEGs (420 × 320 pixels, cut from the two photographs of scikit-learn) are
stored in the TFRecord shards of a corpus, in webdataset tars and in Parquet files with
the layout of Hugging Face. Each pipeline runs in a separate process, and the processes
take turns. A pass reads all images with `training_batches`, in batches of 50 images of
289 pixels. The table shows medians over the rounds, and the medians of each round's
ratio to the corpus.

This process first builds the indexes of the tar and Parquet files. With `--latency`,
the same files are also read from two local web servers. One of them waits that number
of seconds before each response.
"""

import argparse
import functools
import http.server
import io
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

from turns import serve_batches, take_turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

KINDS = ("corpus", "tars", "parquet")
BATCH_SIZE, FILES, IMAGE_SIZE = 50, 4, 289


def jpegs(count):
    """Yields JPEG files of about 30 KB, a typical size in shards of img2dataset."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        x, y = random.integers(0, (220, 107))
        image = sources[number % 2].crop((x, y, x + 420, y + 320))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        yield file.getvalue()


def write_tars(folder, images):
    """Writes the images, with one caption each, to tar files."""
    per_file = -(-len(images) // FILES)
    for number in range(FILES):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for row in range(number * per_file, (number + 1) * per_file):
                parts = {"jpg": images[row], "txt": f"photograph {row}".encode()}
                parts["json"] = json.dumps({"url": "", "status": "success"}).encode()
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{row:09}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_parquet(folder, images):
    """Writes the images to Parquet files with row groups of 100.

    Images have the layout `{bytes, path}` of Hugging Face.
    """
    import pyarrow as pa
    import pyarrow.parquet

    per_file = -(-len(images) // FILES)
    for number in range(FILES):
        rows = range(number * per_file, (number + 1) * per_file)
        table = pa.table(
            {
                "image": [{"bytes": images[row], "path": None} for row in rows],
                "caption": [f"photograph {row}" for row in rows],
            }
        )
        path = folder / f"train-{number:05}-of-{FILES:05}.parquet"
        pa.parquet.write_table(table, path, row_group_size=100)


def write_corpus(folder, images):
    """Writes the images as the shards of a built corpus."""
    import tensorflow_datasets as tfds

    from align_keras.datasets.build import quiet
    from align_keras.datasets.web_pairs import WebPairs

    def rows():
        lists = ("captions", "rules", "languages", "page_urls", "sources")
        for row, image in enumerate(images):
            text = {"id": f"{row}", "image_key": f"{row}", "location": ""}
            values = {name: [f"photograph {row}"] for name in lists}
            yield {**text, "image": image, "width": 420, "height": 320, **values}

    builder = WebPairs(
        images=rows, description="Photographs.", notes={}, data_dir=str(folder)
    )
    config = tfds.download.DownloadConfig(num_shards=FILES)
    with quiet():
        builder.download_and_prepare(download_config=config)


def write(folder, count):
    """Writes all three formats. Returns the mean number of bytes of an image."""
    images = list(jpegs(count))
    writers = {"corpus": write_corpus, "tars": write_tars, "parquet": write_parquet}
    for name, writer in writers.items():
        (folder / name).mkdir()
        writer(folder / name, images)
    return sum(map(len, images)) / count


class _SlowHandler(http.server.SimpleHTTPRequestHandler):
    """Handler that serves ranges of files after a pause."""

    protocol_version = "HTTP/1.1"
    pause = 0.0

    def log_message(self, *_):
        pass

    def _respond(self, with_body):
        time.sleep(self.pause)
        path = pathlib.Path(self.translate_path(self.path))
        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            self.send_error(404)
            return
        match = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(match[1]) if match else 0
        last = min(int(match[2] or size) if match else size, size - 1)
        self.send_response(206 if match else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Content-Length", str(last - first + 1))
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            with open(path, "rb") as file:
                file.seek(first)
                self.wfile.write(file.read(last - first + 1))

    def do_GET(self):
        """Sends the headers and the bytes."""
        self._respond(True)

    def do_HEAD(self):
        """Sends the headers."""
        self._respond(False)


def serve(arguments):
    """Serves a folder at a free port, and prints the port."""
    _SlowHandler.pause = arguments.latency
    handler = functools.partial(_SlowHandler, directory=str(arguments.folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def work(arguments):
    """Prints the wall and CPU seconds of a pass of a pipeline for each input line."""
    import tensorflow_datasets as tfds

    from align_keras.data import training_batches
    from align_keras.datasets import open_sources
    from align_keras.models import (
        ALIGNImageConverter,
        ALIGNPreprocessor,
        ALIGNTokenizer,
    )
    from align_keras.text import learn_vocabulary

    kind, source = arguments.worker, str(arguments.folder / arguments.worker)
    if kind == "corpus":
        builder = tfds.builder_from_directory(f"{source}/web_pairs/1.0.0")
    else:
        name = f"{{00000..{FILES - 1:05}}}.tar"
        if kind == "parquet":
            name = f"train-{{00000..{FILES - 1:05}}}-of-{FILES:05}.parquet"
        if arguments.url:
            source = f"{arguments.url}/{kind}"
        builder = open_sources(f"{source}/{name}")
    vocabulary = learn_vocabulary(["photograph 0123456789"], 60)
    preprocessor = ALIGNPreprocessor(
        ALIGNTokenizer(vocabulary), ALIGNImageConverter(IMAGE_SIZE)
    )
    dataset = training_batches(
        builder,
        "train",
        preprocessor,
        batch_size=BATCH_SIZE,
        shuffle_buffer_size=200,
    )
    serve_batches(dataset, arguments.count // BATCH_SIZE - 1)


def measure(arguments, pipelines):
    """Returns a dict of pipeline → list of (wall, CPU) seconds of each round."""
    command = [__file__, "--folder", arguments.folder, "--count", arguments.count]
    commands = {name: [*command, *options] for name, options in pipelines.items()}
    return take_turns(commands, arguments.rounds)


def report(times, count):
    """Prints a Markdown table. Ratios are relative to the first pipeline."""
    num_images = count - BATCH_SIZE
    print("| source | images/s | CPU ms per image | speed relative to the first |")
    print("|---|---|---|---|")
    first = next(iter(times.values()))
    for name, rounds in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [a[0] / b[0] for a, b in zip(first, rounds, strict=True)]
        print(
            f"| {name} | {num_images / wall:.0f} | {1000 * cpu / num_images:.2f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


def main():
    """Measures all pipelines and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
    elif arguments.worker:
        work(arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            arguments.folder = pathlib.Path(folder)
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            from align_keras.datasets import open_sources

            mean = write(arguments.folder, arguments.count)
            print(f"{arguments.count} images of {mean / 1000:.0f} KB in {FILES} files")
            for name in KINDS[1:]:
                start = time.perf_counter()
                open_sources(str(arguments.folder / name))
                rate = arguments.count / (time.perf_counter() - start)
                print(f"{name}: one process indexes {rate:.0f} images/s")
            pipelines = {name: ["--worker", name] for name in KINDS}
            report(measure(arguments, pipelines), arguments.count)
            if arguments.latency:
                _measure_latency(arguments)


def _measure_latency(arguments):
    """Prints the tables of web servers without and with a pause."""
    servers, pipelines = [], {}
    try:
        for pause in (0.0, arguments.latency):
            command = [sys.executable, __file__, "--serve", "--latency", str(pause)]
            command += ["--folder", str(arguments.folder)]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            servers.append(server)
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            for name in ("tars", "parquet"):
                options = ["--worker", name, "--url", url]
                pipelines[f"{name}, {1000 * pause:.0f} ms"] = options
        for name in ("tars", "parquet"):
            group = {key: value for key, value in pipelines.items() if name in key}
            report(measure(arguments, group), arguments.count)
    finally:
        for server in servers:
            server.terminate()


if __name__ == "__main__":
    main()

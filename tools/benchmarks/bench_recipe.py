"""Measures recall after `compile()` without an optimizer on small data sets.

    python tools/benchmarks/bench_recipe.py --out saved_models/bench_recipe

The script trains `align_nano` from random weights, on icons (package qtawesome) and
on emoji (npm packages in ALIGN_KERAS_EMOJI_DIR). It prints recall@10 among 1,000 fixed
candidates in both directions. Chance is 1%. The script appends results to results.jsonl
in the folder, and continues there if it was interrupted. A cell is a data set with a
number of pairs, epochs and a batch size. Each cell runs in a separate process.
`--cells` and `--optimizers` select cells. `--table` prints all results.

"auto" is `compile()`, and "paper" is `compile(recipe="paper")`. The names of other
optimizers contain their peak learning rate. Their schedule has a warm-up over a tenth
of the run and a cosine decay.

Candidates have distinct captions and are not trained on. Icons are those of one font
(Font Awesome). A third of their captions are also captions of training icons. Emoji are
Twitter's drawings of 1,000 emoji. Google's drawings of the same emoji can be training
images.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

CANDIDATES = 1000
# Data set, number of pairs, epochs, batch size.
CELLS = (
    ("emoji", 500, 20, 32),
    ("emoji", 2600, 8, 32),
    ("emoji", 2600, 8, 128),
    ("emoji", 2600, 20, 64),
    ("emoji", 2600, 20, 512),
    ("icons", 500, 20, 32),
    ("icons", 2000, 8, 64),
    ("icons", 2000, 20, 128),
    ("icons", 14980, 3, 32),
    ("icons", 14980, 3, 64),
    ("icons", 14980, 3, 512),
    ("icons", 14980, 8, 128),
)
# Name of the optimizer's class, or of the recipe, and the peak learning rate.
OPTIMIZERS = ("auto", "muon:5e-3", "muon:1e-2", "adamw:2e-3", "lamb:1e-2", "paper")


def prepare(name, folder):
    """Writes images, uint8 (n, 80, 80, 3), ids and captions of a data set to a file."""
    from align_keras.datasets import open_corpus

    path = folder / f"{name}.npz"
    if path.exists():
        return
    builder = open_corpus(name, data_dir=folder / "tfds")
    arrays = {}
    for split in builder.info.splits:
        rows = list(builder.as_dataset(split=split).as_numpy_iterator())
        captions = [row["captions"][0].decode() for row in rows]
        arrays[f"{split}_ids"] = np.array([row["id"].decode() for row in rows])
        arrays[f"{split}_captions"] = np.array(captions)
        arrays[f"{split}_images"] = np.stack([row["image"] for row in rows])
    np.savez(path, **arrays)


def pairs_and_candidates(name, folder, pairs):
    """Returns the training pairs and the candidates, both as (images, captions)."""
    arrays = np.load(folder / f"{name}.npz")
    images, captions, ids = (
        np.concatenate([arrays[f"{split}_{part}"] for split in ("train", "test")])
        for part in ("images", "captions", "ids")
    )
    if name == "icons":
        is_test = np.arange(len(ids)) >= len(arrays["train_ids"])
    else:
        vendors, codes = np.char.partition(ids, "/")[:, [0, 2]].T
        is_test = (vendors == "twitter") & np.isin(codes, codes[vendors == "google"])
    random = np.random.default_rng(0)
    test_rows = random.permutation(np.flatnonzero(is_test))
    _, first = np.unique(captions[test_rows], return_index=True)
    candidates = test_rows[np.sort(first)][:CANDIDATES]
    pool = ~is_test
    if name == "emoji":
        pool = np.ones(len(ids), bool)
        pool[candidates] = False
    train = random.permutation(np.flatnonzero(pool))[:pairs]
    return (
        (images[train], captions[train].tolist()),
        (images[candidates], captions[candidates].tolist()),
    )


def build_optimizer(name, rate, steps):
    """Returns an optimizer with a warm-up over a tenth of the run and cosine decay."""
    import keras

    from align_keras import optimizers

    warmup = steps // 10
    cosine = keras.optimizers.schedules.CosineDecay(rate, max(1, steps - warmup))
    schedule = optimizers.LinearWarmup(cosine, warmup)
    classes = {
        "muon": optimizers.Muon,
        "adamw": optimizers.AdamW,
        "lamb": optimizers.Lamb,
    }
    return classes[name](schedule, weight_decay=0.05)


def run_cell(cell, optimizer, folder):
    """Trains and measures a cell. Prints a line of JSON."""
    import keras

    import align_keras

    name, pairs, epochs, batch_size = cell
    keras.utils.set_random_seed(0)
    train, candidates = pairs_and_candidates(name, folder, pairs)
    vocabulary = align_keras.learn_vocabulary(train[1], size=10_000)
    model = align_keras.ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    steps = epochs * max(1, len(train[1]) // batch_size)
    kind, _, rate = optimizer.partition(":")
    if rate:
        model.compile(build_optimizer(kind, float(rate), steps))
    else:
        model.compile(recipe=kind)
    wall, processor = time.perf_counter(), time.process_time()
    history = model.fit(*train, batch_size=batch_size, epochs=epochs, verbose=0).history
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    images = model.encode_images(list(candidates[0]))
    texts = model.encode_texts(candidates[1])
    positives = [[row] for row in range(len(images))]
    recalls = [
        align_keras.recall_at_k(queries, gallery, positives=positives, ks=(10,))
        for queries, gallery in ((texts, images), (images, texts))
    ]
    result = {
        "cell": list(cell),
        "optimizer": optimizer,
        "steps": steps,
        "candidates": len(images),
        "t2i": float(next(iter(recalls[0].values()))),
        "i2t": float(next(iter(recalls[1].values()))),
        "loss": [history["loss"][0], history["loss"][-1]],
        "temperature": float(model.temperature),
        "wall_seconds": wall,
        "cpu_seconds": processor,
    }
    print(json.dumps(result), flush=True)


def read_results(path):
    """Returns a dict of (cell, optimizer) → result."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {(tuple(line["cell"]), line["optimizer"]): line for line in lines}


def print_table(results):
    """Prints a row for each cell: recall in percent, and as a multiple of chance."""
    names = [name for name in OPTIMIZERS if any(key[1] == name for key in results)]
    columns = ["data", "pairs", "epochs", "batch", "steps", *names]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    cells = dict.fromkeys(cell for cell, _ in results)
    for cell in sorted(cells):
        by_name = {name: results.get((cell, name)) for name in names}
        steps = next(r["steps"] for r in by_name.values() if r is not None)
        texts = []
        for result in by_name.values():
            if result is None:
                texts.append("")
                continue
            recalls = [result["t2i"], result["i2t"]]
            multiple = sum(recalls) / 2 * result["candidates"] / 10
            percent = " / ".join(f"{100 * recall:.1f}" for recall in recalls)
            texts.append(f"{percent} ({multiple:.1f}×)")
        name, pairs, epochs, batch_size = cell
        numbers = [f"{pairs:,}", str(epochs), str(batch_size), f"{steps:,}"]
        print(f"| {' | '.join([name, *numbers, *texts])} |")


def main():
    """Trains the cells without a result, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--cells",
        nargs="*",
        default=[",".join(map(str, cell)) for cell in CELLS],
        help="data,pairs,epochs,batch",
    )
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument(
        "--table", action="store_true", help="print the results without training"
    )
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, *numbers = arguments.run[0].split(",")
        cell = (name, *map(int, numbers))
        run_cell(cell, arguments.run[1], arguments.out)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    if arguments.table:
        print_table(read_results(path))
        return
    for text in arguments.cells:
        name, *numbers = text.split(",")
        cell = (name, *map(int, numbers))
        prepare(name, arguments.out)
        for optimizer in arguments.optimizers:
            if (cell, optimizer) in read_results(path):
                continue
            command = [sys.executable, __file__, "--out", str(arguments.out)]
            command += ["--run", text, optimizer]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            with open(path, "ab") as file:
                file.write(process.stdout.splitlines()[-1] + b"\n")
    print_table(read_results(path))


if __name__ == "__main__":
    main()

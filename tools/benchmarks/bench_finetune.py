"""Measures `align-keras finetune` on icons, on an emoji vendor and on stamps.

    python tools/benchmarks/bench_finetune.py --out saved_models/bench_finetune

The script fine-tunes `align_small_en` with 100 to 1,855 pairs and three seeds. It
reads the tables of pairs from the package qtawesome (icons), from the npm package
emoji-datasource-facebook in ALIGN_KERAS_EMOJI_DIR (emoji of a vendor that the model was
not trained on), and from Tux Paint's stamps (one category). The script appends results
to results.jsonl in the folder, and continues there if it was interrupted. `--cells`
selects data, sizes and seeds. `--table` prints all results. Columns:

- factor: factor of the interpolation that the validation pairs chose.
- test R@10: recall of the test pairs of the split, from texts to images and from images
  to texts, before and after, with the 95% interval of the change of the first one.
- other R@10: for icons, all 1,402 icons of a font that isn't trained on.
- old R@10: all stamps, or the other categories of the stamps.
- wall and CPU: seconds of the whole command.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np

SEEDS = (0, 1, 2)
ALL = 0
# Data and numbers of pairs. 0 is all pairs.
SIZES = {"icons": (100, 1000), "emoji": (1000, ALL), "stamps": (ALL,)}
CATEGORY = "animals"
VENDOR = "facebook"


def write_table(path, rows):
    """Writes a table of dicts with `image` and `caption`."""
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def corpus_rows(name, split, folder):
    """Writes the images of a corpus to a folder, and returns the rows of its table."""
    import tensorflow_datasets as tfds
    from PIL import Image

    from align_keras.datasets import open_corpus

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    examples = tfds.as_numpy(open_corpus(name).as_dataset(split=split))
    for number, example in enumerate(examples):
        file_name = f"{number:05d}.png"
        Image.fromarray(example["image"]).save(folder / file_name)
        captions = [caption.decode() for caption in example["captions"]]
        identifier = example["id"].decode()
        rows.append(
            {
                "image": f"{folder.name}/{file_name}",
                "id": identifier,
                "caption": captions,
                "category": example["category"].decode(),
            }
        )
    return rows


def emoji_rows():
    """Returns the rows of the vendor's emoji without variations in skin tone."""
    from align_keras.datasets.emoji import SWATCH_CATEGORY, emoji_captions

    package = pathlib.Path(
        os.environ["ALIGN_KERAS_EMOJI_DIR"], f"emoji-datasource-{VENDOR}"
    )
    rows = []
    for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        category = emoji["category"] or ""
        captions = emoji_captions(emoji["name"] or "", emoji["short_names"], category)
        has_image = emoji.get(f"has_img_{VENDOR}", True)
        if has_image and captions and category != SWATCH_CATEGORY:
            image = package / "img" / VENDOR / "64" / emoji["image"]
            rows.append(
                {"image": str(image), "id": emoji["unified"], "caption": captions}
            )
    return rows


def prepare(name, folder):
    """Writes the tables of a data set: all pairs, other test pairs and the old task."""
    if (folder / f"{name}.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if name == "icons":
        write_table(
            folder / "icons_other.jsonl",
            corpus_rows("icons", "test", folder / "icons_other"),
        )
        rows = corpus_rows("icons", "train", folder / "icons")
    elif name == "emoji":
        rows = emoji_rows()
    else:
        stamps = corpus_rows("stamps", "test", folder / "stamps")
        others = [row for row in stamps if row["category"] != CATEGORY]
        write_table(folder / "stamps_old.jsonl", others)
        rows = [row for row in stamps if row["category"] == CATEGORY]
    write_table(folder / f"{name}.jsonl", rows)


def recalls_at_10(model, data):
    """Returns recall@10 from texts to images and from images to texts."""
    from align_keras.protocols.caption_protocols import (
        rank_pairs,
        read_captioned_images,
    )
    from align_keras.protocols.embedding_cache import image_key
    from align_keras.protocols.protocol import Request

    pairs = read_captioned_images(Request(data=str(data)))
    keys = [image_key(image) for image in pairs.images]
    images = model.encode_images(pairs.images)
    metrics = rank_pairs(images, pairs.captions, model.encode_texts, keys).metrics
    return [metrics[f"{direction}/recall_at_10"] for direction in ("t2i", "i2t")]


def recalls_of_parts(model, parts):
    """Returns a dict from the name of a table to `recalls_at_10`."""
    return {part: recalls_at_10(model, data) for part, data in parts.items()}


def run_cell(name, size, seed, arguments):
    """Fine-tunes with one size and seed, and prints a line of JSON."""
    folder = arguments.out
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng(seed).permutation(len(lines))
    table = folder / f"{name}_{size or len(lines)}_{seed}.jsonl"
    chosen = sorted(order[: size or len(lines)])
    table.write_text("\n".join(lines[row] for row in chosen), encoding="utf-8")
    old_task = folder / "stamps_old.jsonl" if name == "stamps" else "stamps"
    run_folder = folder / f"run_{name}_{size or 'all'}_{seed}"
    command = [sys.executable, "-m", "align_keras.cli.main", "finetune"]
    command += ["--pairs", table, "--out", run_folder, "--old-task", old_task, "--json"]
    overrides = [*arguments.params_override, f"trainer.seed={seed}"]
    command += [f"--params_override={override}" for override in overrides]
    start = time.perf_counter()
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    from align_keras.models import ALIGN

    other = {"old": old_task}
    if name == "icons":
        other["other"] = folder / "icons_other.jsonl"
    # The recalls before the training are the same for all cells of a data set.
    stored = folder / f"{name}_before.json"
    if not stored.exists():
        recalls = recalls_of_parts(ALIGN.from_preset("align_small_en"), other)
        stored.write_text(json.dumps(recalls), encoding="utf-8")
    measured = {
        "before": json.loads(stored.read_text(encoding="utf-8")),
        "after": recalls_of_parts(ALIGN.from_preset(run_folder), other),
    }
    result = {
        "cell": [name, size, seed],
        "pairs": len(chosen),
        "overrides": overrides,
        "finetune": json.loads(process.stdout),
        "measured": measured,
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }
    # Checkpoints of all cells would need many gigabytes.
    shutil.rmtree(run_folder / "stages")
    print(json.dumps(result), flush=True)


def percents(recalls):
    """Returns recalls as a text in percent."""
    return " / ".join(f"{100 * recall:.1f}" for recall in recalls)


def print_table(results):
    """Prints a row for each cell."""
    columns = "data, pairs, seed, factor, test before, test after, change of t2i, "
    columns += "other before, other after, old before, old after, wall s, CPU s"
    names = columns.split(", ")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for result in results:
        name, _, seed = result["cell"]
        changes = {
            change["direction"]: change
            for change in result["finetune"]["changes"]["Your test pairs"]
            if change["k"] == 10
        }
        tests = [
            [changes[direction][key][0] for direction in ("t2i", "i2t")]
            for key in ("before", "after")
        ]
        difference, low, high = (100 * value for value in changes["t2i"]["change"])
        measured = [
            percents(result["measured"][key].get(part, []))
            for part in ("other", "old")
            for key in ("before", "after")
        ]
        cells = [
            name,
            f"{result['pairs']:,}",
            str(seed),
            f"{result['finetune']['factor']:g}",
            *map(percents, tests),
            f"{difference:+.1f} ({low:+.1f} to {high:+.1f})",
            *measured,
            f"{result['wall_seconds']:.0f}",
            f"{result['cpu_seconds']:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


def main():
    """Fine-tunes the cells without a result, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--cells",
        nargs="*",
        default=[
            f"{name},{size},{seed}"
            for name, sizes in SIZES.items()
            for size in sizes
            for seed in SEEDS
        ],
        help="data,pairs,seed with 0 for all pairs",
    )
    parser.add_argument("--params_override", action="append", default=[])
    parser.add_argument(
        "--table", action="store_true", help="print the results without training"
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    if arguments.run:
        name, size, seed = arguments.run.split(",")
        run_cell(name, int(size), int(seed), arguments)
        return
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    finished = {",".join(map(str, result["cell"])) for result in results}
    for cell in () if arguments.table else arguments.cells:
        if cell in finished:
            continue
        prepare(cell.partition(",")[0], arguments.out)
        command = [sys.executable, *sys.argv, "--run", cell]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        line = process.stdout.splitlines()[-1]
        results.append(json.loads(line))
        with open(path, "ab") as file:
            file.write(line + b"\n")
    print_table(results)


if __name__ == "__main__":
    main()

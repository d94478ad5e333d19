"""Trains small versions of tables 8 to 10 and of figure 3 of the paper.

    python tools/benchmarks/bench_ablations.py --out saved_models/bench_ablations

The base row is the experiment quickstart_icons with images of 32 pixels and 128 pairs
per batch, for 300 steps. Each other row changes some options. Recall at 10 is measured
on the 1,402 icons of a font that is not in the training data, and chance is 0.7%. The
tables have the mean and the standard deviation of three seeds.

Each training is a run of `align-keras train` in a folder of `--out`. Finished runs are
not repeated, so an interrupted script continues. The script can run once for each
table at the same time.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

from harness import run_benchmark

EXPERIMENT = "quickstart_icons"
SEEDS = (0, 1, 2)
STEPS = 300
_IMAGE = "task.model.image_encoder"
BASE = {
    f"{_IMAGE}.image_size": 32,
    "task.train_data.global_batch_size": 128,
    "trainer.train_steps": STEPS,
    "trainer.steps_per_loop": STEPS,
    "trainer.checkpoint_interval": STEPS,
    "trainer.validation_interval": STEPS,
    "trainer.callbacks": "[]",
}
_SPLIT = {"task.train_data.tfds_split": "train[:10%]"}
# Share of the captions that belong to another icon in the noisy tables.
WRONG_SHARE = 0.5


def encoders(width, text):
    """Returns the overrides of an image encoder's width and of a text encoder."""
    return {
        f"{_IMAGE}.width_coefficient": width,
        "task.model.text_encoder.variant": text,
    }


def temperature(denominator):
    """Returns the overrides of a fixed temperature, 1 / denominator."""
    return {
        "task.model.initial_temperature": 1 / denominator,
        "task.model.learn_temperature": "false",
    }


_LARGE = encoders(1.0, "bert_tiny")
_SMALL = encoders(0.25, "bert_tiny")
# Title of a table, name of a row → overrides of the base row.
TABLES = {
    "Table 8": {
        "base: width 256, all negatives, learned temperature": {},
        "width 128": {"task.model.projection_dim": 128},
        "width 64": {"task.model.projection_dim": 64},
        "width 32": {"task.model.projection_dim": 32},
        "50% of the negatives": {"task.loss.contrastive.negatives_fraction": 0.5},
        "25% of the negatives": {"task.loss.contrastive.negatives_fraction": 0.25},
        "temperature 1/128": temperature(128),
        "temperature 1/64": temperature(64),
        "temperature 1/32": temperature(32),
        "temperature 1/16": temperature(16),
    },
    "Figure 3": {
        "image width 0.25, bert_tiny": encoders(0.25, "bert_tiny"),
        "image width 0.5, bert_tiny": {},
        "image width 1, bert_tiny": encoders(1.0, "bert_tiny"),
        "image width 0.5, bert_mini": encoders(0.5, "bert_mini"),
    },
    "Table 9": {
        "large, all pairs": _LARGE,
        "large, 10% of the pairs": _LARGE | _SPLIT,
        "small, all pairs": _SMALL,
        "small, 10% of the pairs": _SMALL | _SPLIT,
    },
    "Table 10": {
        "10% of the pairs, correct": {"pairs": (0.1, 0.0)},
        "40% of the pairs, half of them wrong": {"pairs": (0.4, WRONG_SHARE)},
        "20% of the pairs, half of them wrong": {"pairs": (0.2, WRONG_SHARE)},
        "10% of the pairs, half of them wrong": {"pairs": (0.1, WRONG_SHARE)},
    },
}


def write_pairs(share, wrong_share, folder):
    """Writes a table of a share of the training icons, and returns its path.

    The captions of a part of the icons are exchanged among these icons.
    """
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    from align_keras.datasets import open_corpus

    path = folder / f"pairs_{share:g}_{wrong_share:g}.jsonl"
    if path.exists():
        return path
    images = folder / "icons"
    images.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus("icons")
    examples = list(tfds.as_numpy(corpus.as_dataset(split="train")))
    order = np.random.default_rng(0).permutation(len(examples))
    order = order[: round(share * len(examples))]
    captions = [[text.decode() for text in examples[i]["captions"]] for i in order]
    wrong = round(wrong_share * len(order))
    captions[:wrong] = captions[1:wrong] + captions[:1] if wrong else []
    lines = []
    for number, texts in zip(order, captions, strict=True):
        name = f"{images.name}/{number}.png"
        Image.fromarray(examples[number]["image"]).save(folder / name)
        lines.append(json.dumps({"id": str(number), "image": name, "caption": texts}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_folder(overrides, seed, out):
    """Returns the folder of a run, which rows with the same overrides share."""
    parts = [f"{key.rpartition('.')[2]}_{value}" for key, value in overrides.items()]
    name = "-".join(parts) or "base"
    name = re.sub(r"[^\w.-]+", "_", name)
    return out / f"{name}-seed_{seed}"


def train(overrides, seed, out):
    """Trains a row with a seed unless it was trained before."""
    folder = run_folder(overrides, seed, out)
    if (folder / "done.json").exists():
        return
    changed = BASE | overrides | {"trainer.seed": seed}
    pairs = changed.pop("pairs", None)
    if pairs is not None:
        changed["task.train_data.pairs"] = write_pairs(*pairs, out)
        changed["task.train_data.corpus"] = "pairs"
        changed["task.train_data.tfds_split"] = "all"
        changed["task.train_data.tfds_data_dir"] = out / "corpora"
    command = [sys.executable, "-m", "align_keras.cli.main", "train", "--experiment"]
    command += [EXPERIMENT, "--model_dir", str(folder)]
    command += [f"--params_override={key}={value}" for key, value in changed.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (folder / "done.json").write_text("{}")


def recall(overrides, seed, out):
    """Returns the recall at 10 of a run, the mean of both directions, in percent."""
    path = run_folder(overrides, seed, out) / "metrics.jsonl"
    metrics = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        metrics.update(json.loads(line))
    values = [metrics[f"{direction}/recall_at_10"] for direction in ("t2i", "i2t")]
    return 100 * statistics.mean(values)


def print_table(title, out):
    """Prints a table of the rows whose runs are finished.

    The last column compares the runs of a row with those of the first row that have the
    same seeds, because a seed changes all rows in a similar way.
    """
    print(f"\n| {title} | R@10, % | minus the first row |\n|---|---|---|")
    first_values = None
    for name, overrides in TABLES[title].items():
        folders = [run_folder(overrides, seed, out) for seed in SEEDS]
        if not all((folder / "done.json").exists() for folder in folders):
            continue
        values = [recall(overrides, seed, out) for seed in SEEDS]
        first_values = first_values or values
        pairs = zip(values, first_values, strict=True)
        difference = describe([value - first for value, first in pairs])
        print(f"| {name} | {describe(values)} | {difference} |")


def describe(values):
    """Returns the mean and the standard deviation of some values."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main():
    """Trains the rows of the tables and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for title in arguments.tables:
            for overrides in TABLES[title].values():
                train(overrides, seed, arguments.out)
    for title in arguments.tables:
        print_table(title, arguments.out)


if __name__ == "__main__":
    run_benchmark(main)

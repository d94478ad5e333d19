"""Compares step times that `align-keras plan` estimates with measured ones.

    python tools/benchmarks/bench_plan.py            # ~7 minutes, 24 GB

Training steps of several models run on the processors of this machine. Each model runs
in a separate process, and the processes take turns. The plan needs three speeds: those
of the image encoder, of the text encoder and of the weight update. They are fitted to
the medians of three models. The step times of the other models are then estimated with
these speeds.
"""

import argparse
import os
import pathlib
import statistics

from turns import serve, take_turns, timed

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Variant, image size, BERT, tokens per text, pairs per step, further overrides. The
# fitted cases differ in a single property, which determines each speed separately.
FITTED = {
    "B0 at 128, BERT-medium, 32 pairs": ("b0", 128, "bert_medium", 64, 32, ""),
    "B0 at 224, BERT-medium, 32 pairs": ("b0", 224, "bert_medium", 64, 32, ""),
    "B0 at 128, BERT-medium of 16 tokens": ("b0", 128, "bert_medium", 16, 32, ""),
}
CASES = FITTED | {
    "B0 at 128, BERT-mini, 64 pairs": ("b0", 128, "bert_mini", 64, 64, ""),
    "B2 at 160, BERT-mini, 32 pairs": ("b2", 160, "bert_mini", 64, 32, ""),
    "B0 at 128, rematerialized": (
        "b0",
        128,
        "bert_mini",
        64,
        32,
        "task.model.image_encoder.rematerialize=true,"
        "task.model.text_encoder.rematerialize=true",
    ),
    "B0 at 128, micro-batches of 16": (
        "b0",
        128,
        "bert_mini",
        64,
        64,
        "task.train_data.micro_batch_size=16",
    ),
}


def case_config(case):
    """Returns the `ExperimentConfig` of a case."""
    from align_keras.config import load_config

    variant, size, text, length, rows, extra_overrides = CASES[case]
    overrides = [
        f"task.model.image_encoder.variant=efficientnet_{variant}",
        f"task.model.image_encoder.image_size={size}",
        f"task.model.text_encoder.variant={text}",
        f"task.model.text_encoder.sequence_length={length}",
        "task.model.text_encoder.vocabulary_size=30522",
        f"task.train_data.global_batch_size={rows}",
    ]
    if extra_overrides:
        overrides.append(extra_overrides)
    return load_config(params_override=",".join(overrides))


def plan(case):
    """Returns the `StepPlan` of a case."""
    from align_keras.planning import plan_step
    from align_keras.planning.run_plan import run_sizes

    return plan_step(run_sizes(case_config(case), 1))


def fitted_speeds(measured):
    """Returns the speeds for which the plan reproduces the fitted cases.

    Args:
        measured: Dict of case → seconds.

    Returns:
        Array of the speeds of image encoder, text encoder and update.
    """
    import numpy as np

    amounts = []
    for case in FITTED:
        # At a speed of 1, the seconds equal the numbers of operations and bytes.
        image, text, loss, update = plan(case).seconds(1, 1, 1).values()
        amounts.append([image, text + loss, update])
    return 1 / np.linalg.solve(amounts, [measured[case] for case in FITTED])


def work(case):
    """Prints the seconds of a training step for each line of standard input."""
    import numpy as np
    import tensorflow as tf

    from align_keras.runs.assemble import build_model, compile_model

    config = case_config(case)
    model = build_model(config.task.model)
    compile_model(model, config)
    rows = config.task.train_data.global_batch_size
    size = config.task.model.image_encoder.image_size
    length = config.task.model.text_encoder.sequence_length
    random = np.random.default_rng(0)
    batch = {
        "images": random.integers(0, 256, (rows, size, size, 3)).astype("uint8"),
        "token_ids": random.integers(5, 30522, (rows, length)).astype("int32"),
        "padding_mask": np.ones((rows, length), "int32"),
    }
    batch = {name: tf.constant(value) for name, value in batch.items()}
    model.build_optimizer()
    step = tf.function(model.train_step)
    for _ in range(2):
        float(step((batch,))["loss"])
    serve(lambda _: timed(lambda: float(step((batch,))["loss"]))[0])


def main(argv=None):
    """Measures all cases, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        return work(arguments.work)
    commands = {case: [__file__, "--work", case] for case in CASES}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    turns = take_turns(commands, arguments.rounds, env=environment)
    measured = {case: statistics.median(seconds) for case, seconds in turns.items()}
    speeds = fitted_speeds(measured)
    image, text, update = (speed / 1e9 for speed in speeds)
    print(f"image {image:.0f} GFLOPS, text {text:.0f} GFLOPS, update {update:.2f} GB/s")
    print("| step | measured (s) | estimated (s) | ratio |\n|---|---|---|---|")
    for case, seconds in measured.items():
        estimate = sum(plan(case).seconds(*speeds).values())
        ratio = "fitted" if case in FITTED else f"{estimate / seconds:.2f}"
        print(f"| {case} | {seconds:.2f} | {estimate:.2f} | {ratio} |")


if __name__ == "__main__":
    main()

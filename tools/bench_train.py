"""Images a second of this package and of `transformers.AlignModel` in torch.

    python tools/bench_train.py                  # B0@128 and B3@224, ~8 minutes
    python tools/bench_train.py --architectures b0@128 --measures train
    python tools/bench_train.py --compile        # torch.compile too, minutes more

Each contender lives in a process of its own. They take turns: one measures while
the others wait for their turn without work, so that what else the machine does
meets all of them alike. Reported are medians over the rounds of wall and of CPU
time, and the ratios of torch channels_last's medians to the row's. Wall times count
only where nothing else runs. OpenVINO and LiteRT take all processors, not --threads.

`train` is forward, loss, backward and AdamW; `image` embeds pictures that are
already pixels, with the image tower; `both` runs both towers. Weights are random.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from bench_train_worker import ARCHITECTURES, MEASURES

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORKER = pathlib.Path(__file__).with_name("bench_train_worker.py")
REFERENCE = "torch channels_last"
# Library and variant.
CONTENDERS = (
    "torch eager",
    REFERENCE,
    "torch bfloat16",
    "torch compile",
    "keras float32",
    "keras mixed_bfloat16",
    "keras openvino",
    "keras openvino_bfloat16",
    "keras litert_int8",
)
OPTIONAL = {"torch compile", "keras mixed_bfloat16"}
# glibc's malloc gives large blocks back to the system and faults them in anew, which
# on some machines costs torch more than its arithmetic; with these it keeps them.
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def start(contender, arguments, architecture):
    """Starts a contender's process; `wait_ready` tells when it has warmed up."""
    command = [
        sys.executable,
        str(WORKER),
        *contender.split(),
        architecture,
        str(arguments.batch_size),
        str(arguments.threads),
        *arguments.measures,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(arguments.package_root or ROOT),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(arguments.threads),
        **(KEPT_MEMORY if arguments.keep_memory else {}),
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if arguments.verbose else subprocess.DEVNULL,
        env=environment,
        text=True,
    )


def wait_ready(worker, contender):
    """Returns the measures that a contender has; it fails with its name."""
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{contender} could not start; --verbose shows why.")
    return json.loads(line)


def take_turn(worker, measure, steps):
    """Returns wall and CPU seconds a step."""
    print(measure, steps, file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def measured(arguments, architecture):
    """Returns the turns' (wall, CPU) by (measure, contender)."""
    workers, ready = {}, {}
    try:
        # One after the other: none warms up in another's way.
        for contender in arguments.contenders:
            print(f"{architecture}: starting {contender}", file=sys.stderr)
            workers[contender] = start(contender, arguments, architecture)
            ready[contender] = wait_ready(workers[contender], contender)
        turns = {}
        for measure in arguments.measures:
            steps = arguments.steps * (1 if measure == "train" else 3)
            for _ in range(arguments.rounds):
                for contender, worker in workers.items():
                    if measure in ready[contender]:
                        turn = take_turn(worker, measure, steps)
                        turns.setdefault((measure, contender), []).append(turn)
        return turns
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def table(turns, architecture, batch_size):
    """Returns the medians as a Markdown table."""
    medians = {
        key: [statistics.median(column) for column in zip(*rows, strict=True)]
        for key, rows in turns.items()
    }
    lines = [
        "| architecture | measure | contender | images/s | wall ms | CPU ms "
        "| wall ratio | CPU ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (measure, contender), (wall, cpu) in medians.items():
        base = medians.get((measure, REFERENCE))
        ratios = [f"{base[0] / wall:.2f}", f"{base[1] / cpu:.2f}"] if base else ["", ""]
        cells = [
            architecture,
            measure,
            contender,
            f"{batch_size / wall:.1f}",
            f"{wall * 1000:.0f}",
            f"{cpu * 1000:.0f}",
            *ratios,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="all contenders keep freed memory, as torch's tuning guide advises",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="train steps a turn")
    parser.add_argument("--package-root", help="another checkout to measure")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.architectures = arguments.architectures or ["b0@128", "b3@224"]
    if not arguments.contenders:
        optional = OPTIONAL - ({"torch compile"} if arguments.compile else set())
        arguments.contenders = [c for c in CONTENDERS if c not in optional]
    return arguments


def main(argv=None):
    """Measures and prints a table an architecture."""
    arguments = parse(argv)
    for architecture in arguments.architectures:
        turns = measured(arguments, architecture)
        print(table(turns, architecture, arguments.batch_size), flush=True)


if __name__ == "__main__":
    main()

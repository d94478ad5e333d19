"""Compares how many captions per second models embed.

    python tools/benchmarks/bench_texts.py MODEL [MODEL…] [--data clipart]

The captions are those of a data set. The models take turns in one process. The table
shows medians. These commands measure the cost of padding:

    FORMAT="litert --model align_small_en --quantize dynamic-int8"
    align-keras export $FORMAT --to fixed
    align-keras export $FORMAT --to resizable --resizable
    python tools/benchmarks/bench_texts.py fixed resizable
"""

import argparse
import statistics

import numpy as np
from turns import timed

from align_keras import load_model
from align_keras.data import read_retrieval_set
from align_keras.datasets import open_corpus
from align_keras.evaluation import flatten_captions


def main():
    """Prints a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names or folders of models")
    parser.add_argument("--data", default="clipart", help="data set of the captions")
    parser.add_argument("--split", default="train", help="split of the data set")
    parser.add_argument("--captions", type=int, default=2000, help="their number")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    pairs = read_retrieval_set(open_corpus(arguments.data), arguments.split)
    captions, _ = flatten_captions(pairs.captions)
    chosen = np.random.default_rng(0).permutation(len(captions))[: arguments.captions]
    captions = [captions[row] for row in chosen]
    words = [len(caption.split()) for caption in captions]
    print(
        f"{len(captions):,} captions of {arguments.data} with "
        f"{statistics.mean(words):.1f} words on average\n"
    )

    models = {name: load_model(name) for name in arguments.models}
    for model in models.values():
        model.encode_texts(captions[:64])
    times = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, model in models.items():
            times[name].append(timed(model.encode_texts, captions))

    first = times[arguments.models[0]]
    print("| model | runtime | captions/s | CPU ms per caption | times the first |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        wall = statistics.median(seconds for seconds, _ in times[name])
        cpu = statistics.median(seconds for _, seconds in times[name])
        ratio = statistics.median(
            first_cpu / model_cpu
            for (_, first_cpu), (_, model_cpu) in zip(first, times[name], strict=True)
        )
        print(
            f"| {name} | {model.runtime} | {len(captions) / wall:,.0f} | "
            f"{1000 * cpu / len(captions):.2f} | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()

"""Measures a trained image encoder that is interpolated with its initial weights.

    python tools/benchmarks/bench_encoder_factor.py --run RUN --run RUN_2 --run RUN_3

The runs are trainings of the experiment `align_small_en` with different seeds. Each
factor weights the trained weights of the image encoder against its initial weights
(Wortsman et al. 2022). The projection keeps its trained weights. Columns:

- recall at 10 of each source of `bench_held_out.py` in percent, the mean of both
  directions, and the mean of the sources.
- first and in three: share of the 166 photographs of `bench_photographs.py` in GCompris
  whose word is first and among the first three of 86 words, in percent.

Each value is the mean of the runs, and the mean of the sources is followed by its
standard deviation over the runs. The squared deviations are divided by the number of
runs. The rows "averaged" have the mean of the weights of all runs. A factor takes one
to two minutes for each run and for their average.
"""

import argparse
import dataclasses
import math
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
import bench_held_out
import bench_photographs

FACTORS = (1.0, 0.8, 0.6)
PHOTOGRAPHS = "photographs"


@dataclasses.dataclass(frozen=True)
class HeldOutData:
    """Images and captions of the held-out sources, and the photographs of GCompris.

    Attributes:
        sources: dict from the name of a source to a tuple of images and captions.
        photographs: list of the paths of the photographs.
        words: list of the word of each photograph.
    """

    sources: dict[str, tuple[list, list]]
    photographs: list[str]
    words: list[str]

    def measure(self, model: Any) -> list[float]:
        """Returns the values of a row in percent, without the mean of the sources."""
        row = [
            bench_held_out.recalls(model, images, captions)[-1]
            for images, captions in self.sources.values()
        ]
        words = sorted(set(self.words))
        scores = model.encode_images(self.photographs) @ model.encode_texts(words).T
        best = np.argsort(-scores, axis=1, kind="stable")
        is_correct = np.asarray(words)[best] == np.asarray(self.words)[:, None]
        return [*row, *(100 * is_correct[:, :k].any(axis=1).mean() for k in (1, 3))]


def read_held_out_data(folder: pathlib.Path) -> HeldOutData:
    """Reads all images, and writes those of GCompris to a folder."""
    gcompris = bench_held_out.GCOMPRIS
    sources = bench_held_out.read_sources(gcompris, bench_held_out.WORD_CARDS, folder)
    sources[PHOTOGRAPHS] = bench_held_out.photograph_pairs(
        gcompris, bench_held_out.BACKGROUNDS, folder
    )
    photograph_folder = folder / PHOTOGRAPHS
    photograph_folder.mkdir()
    files, words = bench_photographs.read_word_photographs(gcompris, photograph_folder)
    return HeldOutData(sources, files, words)


def main() -> int:
    """Prints the table.

    Returns:
        The exit code. 2 is an input that the user has to correct.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--factors", type=parse_factor, nargs="+", default=FACTORS)
    arguments = parser.parse_args()
    from align_keras.utils.errors import InputError

    try:
        print_table(arguments.run, arguments.factors)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_factor(text: str) -> float:
    """Returns a value of `--factors`, which is from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a number from 0 to 1. Received: {text}. Use 0.8, for example."
        )
    return value


def print_table(runs: list[str], factors: Sequence[float]) -> None:
    """Prints a row for each factor, and one for the average of several runs.

    Args:
        runs: list of the folders of runs of the experiment `align_small_en`.
        factors: sequence of floats from 0 to 1.

    Raises:
        InputError: if a folder has no trained run.
    """
    from align_keras.models import ALIGN
    from align_keras.runs.run import open_run
    from align_keras.training.interpolation import interpolate_weights, read_weights
    from tools.make_small_model import interpolate_encoder

    model_config = open_run(runs[0]).config.task.model
    model = ALIGN.from_preset(runs[0])
    run_weights = [read_weights(ALIGN.from_preset(run)) for run in runs]
    averaged = {
        path: np.mean([weights[path] for weights in run_weights], axis=0)
        for path in run_weights[0]
    }

    def measure(
        data: HeldOutData, weights: dict[str, np.ndarray], factor: float
    ) -> list[float]:
        """Returns the row of trained weights with a factor."""
        # With equal ends, the interpolation sets these weights.
        interpolate_weights(model, weights, weights, 1.0)
        interpolate_encoder(model, model_config, factor)
        return data.measure(model)

    with tempfile.TemporaryDirectory() as folder:
        data = read_held_out_data(pathlib.Path(folder))
        print(" | ".join(["factor", *data.sources, "mean", "first", "in three"]))
        for factor in factors:
            rows = [measure(data, weights, factor) for weights in run_weights]
            print_row(f"{factor:g}", rows, len(data.sources))
            if len(run_weights) > 1:
                row = measure(data, averaged, factor)
                print_row(f"{factor:g}, averaged", [row], len(data.sources))


def print_row(name: str, rows: list[list[float]], source_count: int) -> None:
    """Prints the mean of the rows of several runs."""
    values = np.mean(rows, axis=0)
    means = np.mean(np.asarray(rows)[:, :source_count], axis=1)
    mean_cell = f"{means.mean():.1f}"
    if len(rows) > 1:
        mean_cell += f" ± {means.std():.1f}"
    cells = [
        *(f"{value:.1f}" for value in values[:source_count]),
        mean_cell,
        *(f"{value:.1f}" for value in values[source_count:]),
    ]
    print(" | ".join([name, *cells]), flush=True)


if __name__ == "__main__":
    sys.exit(main())

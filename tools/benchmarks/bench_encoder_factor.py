"""Measures a trained image encoder that is interpolated with its initial weights.

    python tools/benchmarks/bench_encoder_factor.py --run RUN --run RUN_2 --run RUN_3

The runs are trainings of the experiment `align_small_en` with different seeds. Each
factor weights the trained weights of the image encoder against its initial weights
(Wortsman et al. 2022). The projection keeps its trained weights. Columns:

- recall at 10 of each source of `bench_held_out.py` in percent, the mean of both
  directions, and the mean of the sources.
- first and in three: share of the 166 photographs of `bench_photographs.py` in GCompris
  whose word is first and among the first three of 86 words, in percent.

Each value is the mean of the runs. The rows "deviation" have the standard deviation of
each column over the runs (`ddof=0`), and the rows "averaged" have the mean of the
weights of all runs. A factor takes one to two minutes for each run and for their
average.
"""

import argparse
import dataclasses
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

from align_keras.cli.common import number_type
from align_keras.utils.errors import InputError

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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument(
        "--factors",
        type=number_type("a number from 0 to 1", float, 0, 1),
        nargs="+",
        default=FACTORS,
    )
    arguments = parser.parse_args()
    try:
        print_table(arguments.run, arguments.factors)
    except InputError as error:
        parser.error(str(error))


def print_table(runs: list[str], factors: Sequence[float]) -> None:
    """Prints the rows of each factor.

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
            print_mean(f"{factor:g}", rows, len(data.sources))
            if len(run_weights) > 1:
                row = measure(data, averaged, factor)
                print_mean(f"{factor:g}, averaged", [row], len(data.sources))


def print_mean(name: str, rows: list[list[float]], source_count: int) -> None:
    """Prints the mean of the rows of several runs, and its standard deviation.

    Args:
        name: str, first cell of the row.
        rows: list of a row for each run, from `HeldOutData.measure`.
        source_count: int, number of the leading columns that are sources. The mean of
            these columns becomes the column after them.
    """
    table = np.asarray(rows)
    means = table[:, :source_count].mean(axis=1)
    table = np.insert(table, source_count, means, axis=1)
    print_row(name, table.mean(axis=0))
    if len(rows) > 1:
        print_row(f"{name}, deviation", table.std(axis=0))


def print_row(name: str, values: np.ndarray) -> None:
    """Prints a row of the table."""
    cells = [f"{value:.1f}" for value in values]
    print(" | ".join([name, *cells]), flush=True)


if __name__ == "__main__":
    main()

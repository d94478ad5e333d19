"""Read-only access to a finished run."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from align_keras.config import ExperimentConfig, load_config
from align_keras.data import RetrievalSet, read_retrieval_set
from align_keras.evaluation.pair_recall import evaluate_pairs
from align_keras.models import ALIGN
from align_keras.presets.sizes import with_preset
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.runs.run_folder import PARAMS_FILE, check_finished
from align_keras.runs.run_index import open_run_index
from align_keras.search import Hit, Query
from align_keras.training.metrics_log import MetricsLog


def open_run(model_dir: str | os.PathLike) -> "Run":
    """Opens the folder of a finished run.

    Args:
        model_dir: the folder that `train_experiment` or `align-keras train` wrote.

    Returns:
        Run, whose model is loaded when it is first used.

    Raises:
        InputError: if the folder holds no trained model. The message names the command
            that trains it.

    Example:

    ```python
    run = open_run("saved_models/mine")
    run.metrics["step"]  # 50
    ```

    >>> open_run("no_such_run")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: `model_dir` must be the folder of a ...
    """
    directory = pathlib.Path(model_dir)
    check_finished(directory)
    return Run(load_config(config_files=[directory / PARAMS_FILE]), directory)


class Run:
    """A finished run.

    `open_run` and `train_experiment` return it.

    Args:
        config: configuration of the run.
        directory: folder of the run.
        model: trained model, or None to load it from the folder when it is first used.
        validation_pairs: None to read them from the corpus when they are first used.
        metrics: None for the newest metrics in `metrics.jsonl`.

    Example:

    ```python
    run = align_keras.open_run("saved_models/mine")
    isinstance(run, Run)  # True
    "t2i/recall_at_1" in run.evaluate()  # True
    ```
    """

    def __init__(
        self,
        config: ExperimentConfig,
        directory: str | os.PathLike,
        model: ALIGN | None = None,
        validation_pairs: RetrievalSet | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.config = config
        self.directory = pathlib.Path(directory)
        self._model = model
        self._validation_pairs = validation_pairs
        self._metrics = metrics

    @property
    def model(self) -> ALIGN:
        """Trained model of the run."""
        if self._model is None:
            self._model = ALIGN.from_preset(self.directory)
        return self._model

    @property
    def metrics(self) -> dict[str, float]:
        """Newest value of each metric."""
        if self._metrics is None:
            self._metrics = MetricsLog(self.directory / "metrics.jsonl").newest()
        return dict(self._metrics)

    def read_validation_pairs(self) -> RetrievalSet:
        """Reads the validation pairs from their corpus, which must exist."""
        if self._validation_pairs is None:
            task = self.config.task
            image_size = with_preset(task.model).image_encoder.image_size
            self._validation_pairs = read_retrieval_set(
                prepare_corpus(task.validation_data, image_size),
                task.validation_data.tfds_split,
            )
        return self._validation_pairs

    def evaluate(self) -> dict[str, float]:
        """Measures retrieval on the validation pairs (Jia et al. 2021, section 5.1)."""
        task = self.config.task
        return evaluate_pairs(
            self.model,
            self.read_validation_pairs(),
            task.evaluation.ks,
            task.loss.matryoshka.widths,
        )

    def search(
        self,
        query: str | Query | np.ndarray,
        k: int | None = None,
        **options: Any,
    ) -> list[Hit]:
        """Finds validation images.

        Args:
            query: caption, query, or embedding (d,).
            k: number of images to find, or None for `Query.k`.
            **options: further options of `align_keras.search.Index.query`.

        Returns:
            Hits, the best first.
        """
        return open_run_index(self.directory).query(query, k, **options)

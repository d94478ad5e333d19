"""Training, evaluation and indexing of an experiment in the folder of a run.

TensorFlow is imported after the configuration and the folder are checked, so that
mistakes in them are reported at once.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from align_keras.config import ExperimentConfig, resolve_config
from align_keras.config.fields import without_queries
from align_keras.runs.config_checks import check_run_config
from align_keras.runs.finetuning import finetune_experiment
from align_keras.runs.run_folder import (
    check_finished,
    lock_folder,
    newest_step,
    train_command,
)
from align_keras.runs.session import explain_data_errors, run_session
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError, check_tensorflow

if TYPE_CHECKING:
    from align_keras.runs.finished_run import Run

CHECKPOINTS = ("latest", "best")


def train_experiment(
    config: ExperimentConfig | str | os.PathLike,
    model_dir: str | os.PathLike,
    *,
    params_override: str | Mapping | Sequence = (),
    with_evaluation: bool = True,
    with_results: bool = False,
    command: str | None = None,
) -> "Run":
    """Trains an experiment in a folder, or resumes it, as `align-keras train`.

    A run that was interrupted resumes from its newest checkpoint and ends with the
    weights of a run that was never interrupted.

    Args:
        config: configuration, name of an experiment in experiments/, or path of a YAML
            file, such as the `params.yaml` of a run.
        model_dir: folder of the run, which is created.
        params_override: values that override `config`: str such as `"trainer.seed=1"`,
            dict from dotted key to value, or a sequence of these, as in `load_config`.
        with_evaluation: measure retrieval during and after the training.
        with_results: write the export, the search index and the report after the
            training, as `index_experiment`.
        command: command that the export and the report show. Defaults to the command
            that resumes the run.

    Returns:
        Run, whose `metrics` are the newest ones.

    Raises:
        InputError: if the configuration is wrong, the data can't be read, the folder
            has another run or is being written by another process, a tracker in
            `trainer.callbacks` can't start, or the loss or gradient of a step isn't
            finite.

    References:
        Jia et al. 2021, section 5 (pre-training) and 5.1 (zero-shot retrieval).

    Example:

    ```python
    overrides = {
        "task.train_data.pairs": "pairs.csv",
        "task.validation_data.pairs": "pairs.csv",
        "task.train_data.global_batch_size": 4,
        "trainer.train_steps": 50,
        "trainer.optimizer_config.warmup.type": None,
    }
    run = train_experiment(
        "quickstart_stamps", "saved_models/mine", params_override=overrides
    )
    sorted(run.model.encode_texts(["a flower"]).shape)  # [1, 256]
    ```
    """
    check_tensorflow("An experiment")
    # The folder of the run and its trackers store the configuration.
    config = without_queries(resolve_config(config, params_override))
    directory = pathlib.Path(model_dir)
    if config.finetune.model is not None:
        if not with_evaluation:
            _refuse_finetuning(config, "train")
        return finetune_experiment(config, directory)
    check_run_config(config, has_checkpoint=newest_step(directory) is not None)
    with run_session(config, directory) as strategy:
        from align_keras.runs import training_run

        return training_run.train_run(
            config,
            directory,
            strategy,
            with_evaluation=with_evaluation,
            with_results=with_results,
            command=command or train_command(directory),
        )


def evaluate_experiment(
    config: ExperimentConfig | str | os.PathLike,
    model_dir: str | os.PathLike,
    checkpoint: str = "latest",
) -> "Run":
    """Measures the retrieval of a checkpoint of a run (Jia et al. 2021, section 5.1).

    Nothing is written, so a training of the run may continue meanwhile.

    Args:
        config: as in `train_experiment`. The validation data may be others than those
            of the training.
        model_dir: folder of the run.
        checkpoint: `"latest"` or `"best"`.

    Returns:
        Run with the weights and the metrics of the checkpoint.

    Raises:
        InputError: if the folder has no such checkpoint or another run, or the data
            can't be read.

    Example:

    >>> evaluate_experiment("quickstart_icons", "saved_models/icons", "first")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: checkpoint must be one of latest, best. ...
    """
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    check_tensorflow("An experiment")
    config = without_queries(resolve_config(config))
    _refuse_finetuning(config, "eval")
    directory = pathlib.Path(model_dir)
    checkpoints = directory / "checkpoints"
    folder = checkpoints / "best" if checkpoint == "best" else checkpoints
    if not any(folder.glob("ckpt-*.index")):
        raise InputError(
            f"model_dir must be the folder of a run with a {checkpoint} checkpoint. "
            f"Received: {directory}, which has no checkpoint to evaluate. Run with "
            "--mode train first, with trainer.best_checkpoint_eval_metric for the best."
        )
    with run_session(config, directory, is_read_only=True) as strategy:
        from align_keras.runs import training_run

        return training_run.evaluate_checkpoint(config, directory, strategy, checkpoint)


def index_experiment(
    config: ExperimentConfig | str | os.PathLike, model_dir: str | os.PathLike
) -> "Run":
    """Writes the export, the search index and the report of a finished run.

    Args:
        config: as in `train_experiment`.
        model_dir: folder of the run.

    Raises:
        InputError: if the folder has no trained model or another run, or the data
            can't be read.

    Example:

    >>> index_experiment("quickstart_icons", "no_such_run")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: `model_dir` must be the folder of a ...
    """
    check_tensorflow("An experiment")
    config = without_queries(resolve_config(config))
    _refuse_finetuning(config, "index")
    directory = pathlib.Path(model_dir)
    check_finished(directory)
    # The model runs on the default device, whatever the strategy of the training.
    with lock_folder(config, directory), explain_data_errors(config.task):
        from align_keras.runs import training_run

        return training_run.index_run(config, directory, train_command(directory))


def _refuse_finetuning(config: ExperimentConfig, mode: str) -> None:
    if config.finetune.model is not None:
        raise InputError(
            f"mode must be train_and_eval for a fine-tuning. Received: mode={mode!r}. "
            "Leave the mode out, and use `align-keras evaluate` and `align-keras "
            "export` for the fine-tuned model."
        )

"""Steps of a run, from the configuration to the finished folder.

TensorFlow is imported after the configuration and the folder are checked, so that
mistakes in them are reported at once.
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

from align_keras.config import ExperimentConfig, resolve_config
from align_keras.config.fields import without_queries
from align_keras.runs.about_run import save_data_notes
from align_keras.runs.data_errors import explain_data_errors
from align_keras.runs.modes import CHECKPOINTS, MODES
from align_keras.runs.run import Run
from align_keras.runs.run_checks import check_run_config
from align_keras.runs.run_folder import (
    check_finished,
    lock_folder,
    newest_step,
    train_command,
)
from align_keras.runs.start import start_tensorflow
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.progress import say


def train_experiment(
    config: ExperimentConfig | str | os.PathLike,
    model_dir: str | os.PathLike,
    *,
    params_override: str | Mapping | Sequence = (),
    mode: str = "train_and_eval",
    checkpoint: str = "latest",
    with_results: bool = False,
    command: str | None = None,
) -> Run:
    """Trains an experiment in a folder, or resumes it, as `align-keras train`.

    A run that was interrupted resumes from its newest checkpoint and ends with the
    weights of a run that was never interrupted.

    Args:
        config: `ExperimentConfig`, the name of an experiment in experiments/, or the
            path of a YAML file, such as the `params.yaml` of a run.
        model_dir: folder of the run, which is created.
        params_override: values that override `config`: str such as `"trainer.seed=1"`,
            dict from dotted key to value, or a sequence of these, as in `load_config`.
        mode: `"train"`, `"train_and_eval"` (also measures retrieval), `"eval"`
            (measures a checkpoint), or `"index"` (writes the export, the search index
            and the report of a finished run).
        checkpoint: `"latest"` or `"best"`, the checkpoint that `"eval"` measures.
        with_results: bool, True to write the export, the search index and the report
            after the training, as the mode `"index"` does.
        command: str, command that the export and the report show. Defaults to the
            command that resumes the run.

    Returns:
        `Run`. Its `metrics` are the newest metrics of the run, or the metrics of the
        checkpoint for the mode `"eval"`.

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

    Mistakes are reported before anything is read or written:

    >>> train_experiment("quickstart_icons", "saved_models/icons", mode="evaluate")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: mode must be one of train, eval, ...
    """
    check_choice("mode", mode, MODES)
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    if with_results and mode in ("eval", "index"):
        raise InputError(
            "with_results must be False unless mode is train or train_and_eval. "
            f"Received: with_results={with_results}, mode={mode!r}. Leave with_results "
            "out."
        )
    check_tensorflow("An experiment")
    # The folder of the run and its trackers store the configuration.
    config = without_queries(resolve_config(config, params_override))
    task, trainer = config.task, config.trainer
    directory = pathlib.Path(model_dir)
    if config.finetune.model is not None:
        from align_keras.runs.finetune_run import finetune_experiment

        return finetune_experiment(config, directory, mode=mode, command=command)
    command = command or train_command(directory)
    if mode == "index":
        check_finished(directory)
    is_read_only = mode == "eval"
    if is_read_only and newest_step(directory) is None:
        raise InputError(
            "model_dir must be the folder of a run with a checkpoint. Received: "
            f"{directory}, which has no checkpoint to evaluate. Run with --mode train "
            "first."
        )
    if not is_read_only:
        check_run_config(config, has_checkpoint=newest_step(directory) is not None)

    with lock_folder(config, directory, is_read_only), explain_data_errors(task):
        # Start TensorFlow on the devices of the run.
        strategy = None
        if mode != "index":
            strategy = start_tensorflow(config.runtime)

        import keras

        from align_keras.data import read_retrieval_set
        from align_keras.data.stored_pairs import split_size
        from align_keras.evaluation.pair_recall import evaluate_pairs
        from align_keras.models.warm_start import check_weights_installed
        from align_keras.presets.table import with_preset
        from align_keras.runs.assemble import build_model, compile_model
        from align_keras.runs.distillation import embed_training_pairs, open_teachers
        from align_keras.runs.results import write_results
        from align_keras.runs.run_corpora import open_corpora, report_notes
        from align_keras.runs.run_inputs import (
            check_teachers_unchanged,
            check_training_pairs,
            check_vocabulary_unchanged,
        )
        from align_keras.runs.run_vocabulary import prepare_vocabulary
        from align_keras.runs.training_batches import TrainingBatches
        from align_keras.runs.validation_pairs import (
            find_shared_images,
            report_validation_pairs,
        )
        from align_keras.training import train_model
        from align_keras.training.averaging import averaged_weights
        from align_keras.training.checkpoints import restore_checkpoint
        from align_keras.training.doctor import FINDINGS_FILE, TrainingDoctor
        from align_keras.training.strategies import (
            is_chief,
            save_by_chief,
            strategy_scope,
        )
        from align_keras.training.trackers import tracker_callbacks

        # Open the teachers. An evaluation needs them to open the same training pairs.
        teachers = []
        if mode != "index":
            teachers = open_teachers(task)

        # Open the corpora. The first run on a corpus builds it, which may take an hour.
        check_weights_installed(
            task.model.image_encoder.weights, task.model.text_encoder.weights
        )
        image_size = with_preset(task.model).image_encoder.image_size
        corpora = open_corpora(
            task.train_data,
            task.validation_data,
            image_size,
            max((teacher.image_size for teacher in teachers), default=0),
        )
        report_notes(corpora.notes)
        if not is_read_only:
            save_data_notes(directory, corpora.notes)
        validation_split = task.validation_data.tfds_split

        # Write the export, the search index and the report of a finished run.
        if mode == "index":
            validation_pairs = read_retrieval_set(corpora.validation, validation_split)
            run = Run(config, directory, validation_pairs=validation_pairs)
            write_results(
                config, directory, run.model, validation_pairs, corpora.notes, command
            )
            return run

        # Check that a resumed run reads the pairs that it began with.
        check_training_pairs(directory, corpora.train, task.train_data, is_read_only)
        if teachers:
            fingerprints = [teacher.fingerprint for teacher in teachers]
            check_teachers_unchanged(directory, fingerprints, is_read_only)

        # Load or learn the vocabulary.
        vocabulary = prepare_vocabulary(config, corpora.train, directory)
        check_vocabulary_unchanged(directory, vocabulary, is_read_only)

        # Build and compile the model. The seed decides on its initial weights.
        keras.utils.set_random_seed(trainer.seed)
        with strategy_scope(strategy):
            model = build_model(task.model, vocabulary)
            compile_model(model, config)

        # Read the validation pairs, on which recall is measured.
        validation_pairs = read_retrieval_set(corpora.validation, validation_split)
        report_validation_pairs(task, corpora, validation_pairs)
        evaluate = functools.partial(
            evaluate_pairs,
            model,
            validation_pairs,
            task.evaluation.ks,
            task.loss.matryoshka.widths,
        )

        # Evaluate a checkpoint.
        if mode == "eval":
            step = restore_checkpoint(model, directory, checkpoint)
            say(f"evaluating step {step}")
            with averaged_weights(model):
                metrics = evaluate()
            return Run(config, directory, model, validation_pairs, metrics)

        # Embed the training pairs by the teachers, or read their cached embeddings.
        embeddings = None
        if teachers:
            embeddings = embed_training_pairs(
                teachers,
                corpora.train,
                task.train_data.tfds_split,
                [item.weight for item in task.distillation.teacher or ()],
            )

        # Check the pairs. The doctor also checks the training.
        doctor = TrainingDoctor(
            split_size(corpora.train, task.train_data.tfds_split),
            directory / FINDINGS_FILE,
        )
        is_new = newest_step(directory) is None
        if is_new and is_chief(model.distribute_strategy):
            doctor.add(find_shared_images(task, corpora, validation_pairs))

        # Train up to the last step with regular evaluations, and save the model. Only
        # the chief logs to the trackers.
        batches = TrainingBatches(config, corpora.train, model, embeddings)
        trackers = trainer.callbacks if is_chief(model.distribute_strategy) else ()
        with tracker_callbacks(
            trackers, directory, config.model_dump(mode="json")
        ) as callbacks:
            train_model(
                model,
                batches.start_at,
                trainer,
                directory,
                batch_size=task.train_data.global_batch_size,
                evaluate=evaluate if mode == "train_and_eval" else None,
                batch_ids=batches.ids if batches.have_known_order else None,
                callbacks=callbacks,
                doctor=doctor,
            )
        save_by_chief(model, directory)

        # Write the export, the search index and the report.
        if with_results:
            write_results(
                config, directory, model, validation_pairs, corpora.notes, command
            )
        return Run(config, directory, model, validation_pairs)

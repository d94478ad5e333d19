"""Steps of a run: its training, the evaluation of a checkpoint and its results."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from align_keras.config import ExperimentConfig
from align_keras.data import read_retrieval_set
from align_keras.data.stored_pairs import check_batch_size, split_size
from align_keras.embedders import Embedder
from align_keras.models.warm_start import check_weights_installed
from align_keras.presets.sizes import with_preset
from align_keras.runs.card_facts import save_data_notes
from align_keras.runs.distillation import (
    embed_training_pairs,
    largest_image_size,
    open_teachers,
    teacher_weights,
    teachers_fingerprint,
)
from align_keras.runs.finished_run import Run
from align_keras.runs.model_from_config import (
    build_model,
    compile_model,
    prepare_vocabulary,
)
from align_keras.runs.results import write_results
from align_keras.runs.resume_checks import (
    check_inputs,
    check_vocabulary_unchanged,
    pairs_inputs,
)
from align_keras.runs.run_corpora import (
    RunCorpora,
    find_shared_images,
    open_corpora,
    report_validation_pairs,
)
from align_keras.runs.run_folder import newest_step
from align_keras.runs.training_batches import TrainingBatches
from align_keras.training import train_model
from align_keras.training.averaging import averaged_weights
from align_keras.training.checkpoints import restore_checkpoint
from align_keras.training.doctor import FINDINGS_FILE, TrainingDoctor
from align_keras.training.strategies import is_chief, save_by_chief, strategy_scope
from align_keras.training.trackers import tracker_callbacks
from align_keras.utils.progress import say


def train_run(
    config: ExperimentConfig,
    directory: pathlib.Path,
    strategy: tf.distribute.Strategy | None,
    *,
    with_evaluation: bool,
    with_results: bool,
    command: str,
) -> Run:
    """Trains up to the last step with regular evaluations, and saves the model."""
    task = config.task
    prepared = _prepare(config, directory, strategy)
    run, corpora = prepared.run, prepared.corpora
    model = run.model
    embeddings = None
    if prepared.teachers:
        embeddings = embed_training_pairs(
            prepared.teachers,
            corpora.train,
            task.train_data.tfds_split,
            teacher_weights(task),
        )
    batches = TrainingBatches(config, corpora.train, model, embeddings)
    with _callbacks(run, corpora) as callbacks:
        train_model(
            model,
            batches.start_at,
            config.trainer,
            directory,
            batch_size=task.train_data.global_batch_size,
            evaluate=run.evaluate if with_evaluation else None,
            batch_ids=batches.ids if batches.have_known_order else None,
            callbacks=callbacks,
        )
    save_by_chief(model, directory)
    if with_results:
        write_results(run, corpora.notes, command)
    return run


def evaluate_checkpoint(
    config: ExperimentConfig,
    directory: pathlib.Path,
    strategy: tf.distribute.Strategy | None,
    checkpoint: str,
) -> Run:
    """Measures retrieval with the weights of a checkpoint."""
    run = _prepare(config, directory, strategy, is_read_only=True).run
    step = restore_checkpoint(run.model, directory, checkpoint)
    say(f"evaluating step {step}")
    with averaged_weights(run.model):
        metrics = run.evaluate()
    return Run(config, directory, run.model, run.read_validation_pairs(), metrics)


def index_run(config: ExperimentConfig, directory: pathlib.Path, command: str) -> Run:
    """Writes the export, the search index and the report of a finished run."""
    corpora = _open_corpora(config)
    save_data_notes(directory, corpora.notes)
    validation_pairs = read_retrieval_set(
        corpora.validation, config.task.validation_data.tfds_split
    )
    run = Run(config, directory, validation_pairs=validation_pairs)
    write_results(run, corpora.notes, command)
    return run


# === Steps ===


@dataclasses.dataclass(frozen=True)
class _PreparedRun:
    """Compiled model with its validation pairs, corpora and teachers."""

    run: Run
    corpora: RunCorpora
    teachers: Sequence[Embedder]


def _prepare(
    config: ExperimentConfig,
    directory: pathlib.Path,
    strategy: tf.distribute.Strategy | None,
    is_read_only: bool = False,
) -> _PreparedRun:
    """Opens the corpora, builds the model, and checks that a run resumes with both."""
    task = config.task

    # The first run on a corpus builds it, which may take an hour. The images are large
    # enough for the teachers too.
    teachers = open_teachers(task, with_preset(task.model).projection_dim)
    corpora = _open_corpora(config, teachers)
    if not is_read_only:
        save_data_notes(directory, corpora.notes)

    # A resumed run reads the pairs and has the teachers that it began with.
    split = task.train_data.tfds_split
    inputs = pairs_inputs(corpora.train, split)
    if teachers:
        inputs["teacher"] = teachers_fingerprint(teachers)
    check_inputs(directory, inputs, is_read_only)
    check_batch_size(task.train_data.global_batch_size, corpora.train, split)
    vocabulary = prepare_vocabulary(config, corpora.train, directory)
    check_vocabulary_unchanged(directory, vocabulary, is_read_only)

    # The seed determines the initial weights.
    keras.utils.set_random_seed(config.trainer.seed)
    with strategy_scope(strategy):
        model = build_model(task.model, vocabulary)
        compile_model(model, config)

    validation_pairs = read_retrieval_set(
        corpora.validation, task.validation_data.tfds_split
    )
    report_validation_pairs(task, corpora, validation_pairs)
    run = Run(config, directory, model, validation_pairs)
    return _PreparedRun(run, corpora, teachers)


def _open_corpora(
    config: ExperimentConfig, teachers: Sequence[Embedder] = ()
) -> RunCorpora:
    task = config.task
    check_weights_installed(
        task.model.image_encoder.weights, task.model.text_encoder.weights
    )
    return open_corpora(
        task,
        with_preset(task.model).image_encoder.image_size,
        largest_image_size(teachers),
    )


@contextlib.contextmanager
def _callbacks(
    run: Run, corpora: RunCorpora
) -> Iterator[list[keras.callbacks.Callback]]:
    """Yields the trackers and the doctor. Only the chief has them."""
    if not is_chief(run.model.distribute_strategy):
        yield []
        return
    task = run.config.task
    doctor = TrainingDoctor(
        split_size(corpora.train, task.train_data.tfds_split),
        run.directory / FINDINGS_FILE,
    )
    if newest_step(run.directory) is None:
        doctor.add(find_shared_images(task, corpora, run.read_validation_pairs()))
    with tracker_callbacks(
        run.config.trainer.callbacks,
        run.directory,
        run.config.model_dump(mode="json"),
    ) as trackers:
        yield [*trackers, doctor]

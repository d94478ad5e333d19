"""Steps of a fine-tuning, from the pairs to the report."""

import json
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from align_keras.config import ExperimentConfig
from align_keras.data import RetrievalSet, TeacherEmbeddings, read_retrieval_set
from align_keras.data.stored_pairs import split_size
from align_keras.embedders.locations import ModelLocation
from align_keras.evaluation import flatten_captions, mean_recall
from align_keras.evaluation.pair_recall import evaluate_pairs, rank_pairs
from align_keras.images.image_hash import image_hash
from align_keras.losses import PairLoss
from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.models import ALIGN
from align_keras.runs.card_facts import save_data_notes
from align_keras.runs.distillation import (
    embed_training_pairs,
    largest_image_size,
    open_teachers,
    teacher_weights,
    teachers_fingerprint,
)
from align_keras.runs.export_litert import write_int8
from align_keras.runs.finetuning_results import (
    choose_factor,
    interpolation_curve,
    measure_recall,
    read_old_task,
    write_finetune_results,
)
from align_keras.runs.finished_run import Run
from align_keras.runs.model_export import check_format_packages
from align_keras.runs.model_from_config import build_loss, with_distillation
from align_keras.runs.resume_checks import check_inputs, pairs_inputs
from align_keras.runs.run_corpora import RunCorpora, open_corpora
from align_keras.runs.training_batches import TrainingBatches
from align_keras.training.doctor import FINDINGS_FILE, TrainingDoctor
from align_keras.training.finetune_stage import FinetuneStage, train_stage
from align_keras.training.interpolation import interpolate_weights, read_weights
from align_keras.training.projection_stage import (
    compute_features,
    project_features,
    train_projections,
)
from align_keras.training.strategies import save_by_chief
from align_keras.utils.errors import InputError, MissingExtraError
from align_keras.utils.files import atomic_folder, atomic_write
from align_keras.utils.progress import say

# Folder of the base in the folder of a run that fine-tunes a model in memory.
BASE_FOLDER = "base"
STAGES_FOLDER = "stages"
# Folder of the 8-bit files of a model that a teacher trained.
INT8_FOLDER = "litert"
PROJECTION_STAGE = "1_projections"
# The fewest steps of an epoch. Smaller data sets have smaller batches.
_MIN_STEPS_PER_EPOCH = 4


def finetune_model(
    config: ExperimentConfig,
    directory: pathlib.Path,
    location: ModelLocation,
    command: str,
) -> Run:
    """Trains the stages, interpolates with the base, and writes the results."""
    # The batch statistics of the model stay constant.
    keras.utils.set_random_seed(config.trainer.seed)
    say(f"opening the model {location.name}")
    model = ALIGN.from_preset(
        location.preset, locked=False, freeze_batch_statistics=True
    )
    initial_weights = read_weights(model)

    # The splits share neither an image nor a caption.
    teachers = open_teachers(config.task, model.image_encoder.output_shape[-1])
    corpora = open_corpora(config.task, model.image_size, largest_image_size(teachers))
    save_data_notes(directory, corpora.notes)
    train, validation, test = _read_splits(corpora)
    inputs = pairs_inputs(corpora.train, "train")
    inputs["base_model"] = _fingerprint(model)
    if teachers:
        inputs["teacher"] = teachers_fingerprint(teachers)
    check_inputs(directory, inputs)
    old_task = read_old_task(config.finetune.old_task, [train, validation, test])

    say("measuring the model before the training")
    before = measure_recall(model, test)
    old_before = None if old_task is None else measure_recall(model, old_task.test)

    embeddings = None
    if teachers:
        embeddings = embed_training_pairs(
            teachers, corpora.train, "train", teacher_weights(config.task)
        )
    stages = _train_stages(
        model, config, directory, corpora, train, validation, embeddings
    )
    tuned_weights = read_weights(model)

    # The validation pairs choose the factor.
    say("interpolating between the original and the fine-tuned weights")
    curve = interpolation_curve(
        model,
        initial_weights,
        tuned_weights,
        config.finetune.factors,
        validation,
        None if old_task is None else old_task.validation,
    )
    factor = choose_factor(curve, config.finetune.max_forgetting)
    say(f"the factor {factor:g} has the best recall of the validation pairs")

    # The saved model has the options of the base.
    tuned = ALIGN.from_preset(location.preset)
    interpolate_weights(tuned, initial_weights, tuned_weights, factor)
    save_by_chief(tuned, directory)

    # The test pairs are measured once.
    say("measuring the model after the training")
    after = measure_recall(tuned, test)
    old_after = None if old_task is None else measure_recall(tuned, old_task.test)
    run = Run(config, directory, tuned, test)
    write_finetune_results(
        run,
        splits=[train, validation, test],
        old_task=old_task,
        results={"test": (before, after), "old": (old_before, old_after)},
        curve=curve,
        factor=factor,
        stages=stages,
        notes=corpora.notes,
        command=command,
    )
    if teachers:
        _write_int8(tuned, directory / INT8_FOLDER, train.images)
    return run


def _write_int8(model: ALIGN, folder: pathlib.Path, images: Sequence[bytes]) -> None:
    """Writes 8-bit files of a student if the packages are installed."""
    try:
        check_format_packages("litert", {"quantize": "int8"})
    except MissingExtraError as error:
        say(f"8-bit files of the model aren't written. {error}")
        return
    say(f"writing 8-bit files to {folder}")
    write_int8(model, folder, images)


def save_base(model: ALIGN, directory: pathlib.Path) -> str:
    """Saves a model in memory to the folder of the run, and returns the path."""
    folder = directory / BASE_FOLDER
    if folder.is_dir():
        saved = ALIGN.from_preset(folder)
        if _fingerprint(saved) != _fingerprint(model):
            raise InputError(
                f"{directory} must contain the fine-tuning of this model. Received: "
                "the fine-tuning of another model. Use another folder."
            )
    else:
        with atomic_folder(folder) as temporary:
            model.save_to_preset(temporary)
    return str(folder.resolve())


def _fingerprint(model: ALIGN) -> str:
    return model.image_encoder.fingerprint() + model.text_encoder.fingerprint()


def _read_splits(corpora: RunCorpora) -> list[RetrievalSet]:
    """Reads the pairs for training, validation and test."""
    splits = [
        read_retrieval_set(corpora.train, name)
        for name in ("train", "validation", "test")
    ]
    train, validation, test = map(len, splits)
    say(
        f"{train:,} images for training, {validation:,} for validation and {test:,} "
        "for the test"
    )
    if train < 2:
        raise InputError(
            "`pairs` must have at least 4 images that share no caption, 2 of "
            f"them for the training. Received: {train} images for the training. Add "
            "pairs."
        )
    return splits


# === Stages ===


def _train_stages(
    model: ALIGN,
    config: ExperimentConfig,
    directory: pathlib.Path,
    corpora: RunCorpora,
    train: RetrievalSet,
    validation: RetrievalSet,
    teacher: TeacherEmbeddings | None,
) -> list[str]:
    """Trains all stages, and returns their names.

    The validation pairs choose the best epoch of each stage.
    """

    def evaluate() -> dict[str, float]:
        metrics = evaluate_pairs(model, validation)
        return {**metrics, "mean_recall": mean_recall(metrics)}

    loss = with_distillation(
        build_loss(config.task.loss, model.image_encoder.output_shape[-1]),
        config.task.distillation,
    )
    config_of_batches = _with_smaller_batches(config, len(train))
    batch_size = config_of_batches.task.train_data.global_batch_size
    batches = TrainingBatches(config_of_batches, corpora.train, model, teacher)
    folder = directory / STAGES_FOLDER
    stages = finetune_stages(config, len(train))
    if config.finetune.projection_epochs and not _has_checkpoint(folder, stages[:1]):
        say("stage 1: training the projections")
        _train_projections(
            model, config, train, validation, loss, teacher, folder, batch_size
        )
    for number, stage in enumerate(stages, start=2):
        say(f"stage {number}: training {stage.description}")
        doctor = TrainingDoctor(len(train), folder / stage.name / FINDINGS_FILE)
        train_stage(
            model,
            stage,
            config.finetune,
            batches.start_at,
            loss,
            folder / stage.name,
            evaluate=evaluate,
            image_count=split_size(corpora.train, "train"),
            batch_size=batch_size,
            seed=config.trainer.seed,
            callbacks=[doctor],
        )
    return [PROJECTION_STAGE, *(stage.name for stage in stages)]


def _with_smaller_batches(config: ExperimentConfig, images: int) -> ExperimentConfig:
    """Returns a configuration whose epochs have several batches."""
    train = config.task.train_data
    size = min(train.global_batch_size, max(2, images // _MIN_STEPS_PER_EPOCH))
    train = train.model_copy(update={"global_batch_size": size})
    task = config.task.model_copy(update={"train_data": train})
    return config.model_copy(update={"task": task})


def finetune_stages(config: ExperimentConfig, images: int) -> list[FinetuneStage]:
    """Returns the stages after the training of the projections.

    Args:
        config: configuration of the run.
        images: number of training images.
    """
    settings = config.finetune
    last_blocks = FinetuneStage(
        name="2_last_blocks",
        mode="last_blocks",
        blocks=settings.blocks,
        epochs=settings.blocks_epochs,
        rate=settings.blocks_rate,
    )
    all_layers = FinetuneStage(
        name="3_all_layers",
        mode="full",
        blocks=settings.blocks,
        epochs=settings.full_epochs,
        rate=settings.full_rate,
    )
    stages = [last_blocks]
    if images >= settings.full_min_images:
        stages.append(all_layers)
    return [stage for stage in stages if stage.epochs]


def _has_checkpoint(folder: pathlib.Path, stages: Sequence[FinetuneStage]) -> bool:
    """Returns True if one of the stages has a checkpoint with all weights."""
    return any(
        any((folder / stage.name / "checkpoints").glob("ckpt-*.index"))
        for stage in stages
    )


def _train_projections(
    model: ALIGN,
    config: ExperimentConfig,
    train: RetrievalSet,
    validation: RetrievalSet,
    loss: PairLoss,
    teacher: TeacherEmbeddings | None,
    folder: pathlib.Path,
    batch_size: int,
) -> None:
    """Trains the first stage and writes its recalls."""
    encoders = (model.image_encoder, model.text_encoder)
    if all(encoder.projection_dim is None for encoder in encoders):
        say("  the model has no projections, so the stage is skipped")
        return
    for encoder in encoders:
        encoder.set_training("projection")
    train_features, validation_features = (
        compute_features(model, pairs.images, pairs.captions, pairs.image_keys)
        for pairs in (train, validation)
    )

    def evaluate() -> float:
        images, texts = project_features(model, validation_features)
        result = rank_pairs(
            images, validation.captions, lambda _: texts, validation.image_keys
        )
        return mean_recall(result.metrics)

    recalls = train_projections(
        model,
        train_features,
        loss,
        config.finetune,
        evaluate=evaluate,
        batch_size=batch_size,
        seed=config.trainer.seed,
        teacher_rows=() if teacher is None else _rows_of(teacher, train),
    )
    path = folder / PROJECTION_STAGE / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = len(train) // batch_size
    with atomic_write(path) as file:
        for epoch, recall in enumerate(recalls):
            line = {"step": epoch * steps, "mean_recall": recall}
            file.write(json.dumps(line) + "\n")
    say(f"  mean recall of the validation pairs: {max(recalls):.1%}")


def _rows_of(teacher: TeacherEmbeddings, pairs: RetrievalSet) -> list[np.ndarray]:
    """Returns the teacher's embeddings of the images and of all their captions."""
    captions, _ = flatten_captions(pairs.captions)
    rows = teacher.lookup(image_hash(tf.constant(pairs.images)), tf.constant(captions))
    return [rows[name].numpy() for name in TEACHER_INPUTS]

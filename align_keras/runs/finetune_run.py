"""Fine-tuning of a trained model on the pairs of a user, from the pairs to the report.

TensorFlow is imported after the configuration and the folder are checked, so that
mistakes in them are reported at once.
"""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align_keras.config import ExperimentConfig, load_config
from align_keras.config.fields import without_queries
from align_keras.embedders.locations import (
    DEFAULT_MODEL,
    ModelLocation,
    locate_model,
)
from align_keras.runs.about_run import save_data_notes
from align_keras.runs.data_errors import explain_data_errors
from align_keras.runs.run import Run
from align_keras.runs.run_folder import lock_folder
from align_keras.runs.start import start_tensorflow
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.files import refuse_keras_file
from align_keras.utils.progress import say
from align_keras.utils.remote import is_url

if TYPE_CHECKING:
    from align_keras.data import RetrievalSet
    from align_keras.models import ALIGN
    from align_keras.training.finetune_stage import FinetuneStage

# Experiment with the default recipe.
RECIPE = "own_pairs"
# Folder of the base in the folder of a run that fine-tunes a model in memory.
BASE_FOLDER = "base"
STAGES_FOLDER = "stages"
# The fewest steps of an epoch. Smaller data sets have smaller batches.
_MIN_STEPS_PER_EPOCH = 4


def finetune(
    model: "str | os.PathLike | ALIGN" = DEFAULT_MODEL,
    pairs: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str | None = None,
    old_task: str | os.PathLike | None = None,
    config_files: Sequence[str | os.PathLike] = (),
    params_override: str | Mapping | Sequence = (),
    command: str | None = None,
) -> Run:
    """Fine-tunes a trained model on your pairs, or resumes it.

    The pairs are divided into training, validation and test pairs that share neither an
    image nor a caption. The training has up to three stages: the projections, the last
    blocks, and all layers if there are enough pairs. The weights are then interpolated
    with those of the model. The validation pairs choose the best epochs and the factor
    of the interpolation, and the test pairs measure recall before and after.

    The folder is that of a run. It has the fine-tuned model, the search index of all
    images of the pairs, and `report.html`. A fine-tuning that was interrupted resumes
    from its newest checkpoint.

    Args:
        model: `"align_small_en"`, the folder of a run or a preset, `"hf://user/model"`,
            or an `ALIGN`. It must have Keras weights.
        pairs: table (CSV, TSV, JSONL) or folder of pairs, as in
            `align_keras.datasets.open_corpus`.
        out: folder of the run. The default is `saved_models/finetuned_NAME` for pairs
            in NAME.csv.
        image_column: name of the column of images, or None to recognize it.
        caption_column: name of the column of captions, or None to recognize it.
        encoding: encoding of the table, or None for UTF-8.
        old_task: pairs on which the loss of former abilities is measured: a table, a
            folder, or a corpus such as `"stamps"`. None uses `"stamps"` if they are
            installed.
        config_files: YAML files that override the experiment `own_pairs`.
        params_override: values that override the files, as in `load_config`.
        command: str, command that the report shows. Defaults to the command that
            resumes the run.

    Returns:
        `Run` with the fine-tuned model.

    Raises:
        InputError: if the model has no Keras weights, the pairs can't be read or
            divided, an option is wrong, or the folder has another run.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features". Wortsman et
        al. 2022, "Robust fine-tuning of zero-shot models".

    Example:

    >>> finetune("align_small_en", "no_such_table.csv")
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: `pairs` must be an existing table or folder...
    """
    if pairs is None or not (is_url(pairs) or os.path.exists(pairs)):
        raise InputError(
            f"`pairs` must be an existing table or folder. Received: {pairs}. Check "
            "the path."
        )
    pairs = str(pairs) if is_url(pairs) else str(pathlib.Path(pairs).resolve())
    directory = pathlib.Path(
        out or f"saved_models/finetuned_{pathlib.Path(pairs).stem}"
    )
    if isinstance(model, str | os.PathLike):
        name = locate_base(model).name
    else:
        name = _save_base(model, directory)
    overrides: dict[str, Any] = {
        "finetune.model": name,
        "finetune.old_task": None if old_task is None else str(old_task),
    }
    options = {
        "image_column": image_column,
        "caption_column": caption_column,
        "encoding": encoding,
    }
    for section in ("train_data", "validation_data"):
        overrides[f"task.{section}.pairs"] = pairs
        for option, value in options.items():
            if value is not None:
                overrides[f"task.{section}.{option}"] = value
    if isinstance(params_override, str | os.PathLike | Mapping):
        params_override = [params_override]
    overrides = {key: value for key, value in overrides.items() if value is not None}
    config = load_config(RECIPE, config_files, [overrides, *params_override])
    return finetune_experiment(config, directory, command=command)


def finetune_experiment(
    config: ExperimentConfig,
    model_dir: str | os.PathLike,
    *,
    mode: str = "train_and_eval",
    command: str | None = None,
) -> Run:
    """Runs the fine-tuning that the section `finetune` of a configuration describes.

    `finetune` and `train_experiment` call this function.

    Args:
        config: `ExperimentConfig` with `finetune.model`.
        model_dir: folder of the run.
        mode: as in `train_experiment`. It must be `"train_and_eval"`.
        command: str, command that the report shows.
    """
    if mode != "train_and_eval":
        raise InputError(
            f"mode must be train_and_eval for a fine-tuning. Received: mode={mode!r}. "
            "Leave the mode out, and use `align-keras evaluate` and `align-keras "
            "export` for the fine-tuned model."
        )
    check_tensorflow("Fine-tuning")
    config = without_queries(config)
    task, settings = config.task, config.finetune
    location = locate_base(str(settings.model))
    directory = pathlib.Path(model_dir)
    if location.folder.resolve() == directory.resolve():
        raise InputError(
            "`out` must be another folder than `model`, because the fine-tuned weights "
            f"would replace it. Received: {directory} for both. Choose another folder."
        )
    command = command or finetune_command(config, directory)
    with lock_folder(config, directory), explain_data_errors(task):
        start_tensorflow(config.runtime)

        import keras

        from align_keras.data import read_retrieval_set
        from align_keras.data.stored_pairs import split_size
        from align_keras.evaluation.pair_recall import evaluate_pairs
        from align_keras.models import ALIGN
        from align_keras.runs.assemble import build_loss
        from align_keras.runs.finetune_results import (
            choose_factor,
            interpolation_curve,
            measure_recall,
            read_old_task,
            write_finetune_results,
        )
        from align_keras.runs.run_corpora import open_corpora, report_notes
        from align_keras.runs.training_batches import TrainingBatches
        from align_keras.training.doctor import FINDINGS_FILE, TrainingDoctor
        from align_keras.training.finetune_stage import train_stage
        from align_keras.training.interpolation import (
            interpolate_weights,
            read_weights,
        )
        from align_keras.training.strategies import save_by_chief

        # Open the model. Its batch statistics stay constant.
        keras.utils.set_random_seed(config.trainer.seed)
        say(f"opening the model {location.name}")
        model = ALIGN.from_preset(
            location.preset, locked=False, freeze_batch_statistics=True
        )
        initial_weights = read_weights(model)

        # Read the pairs. The splits share neither an image nor a caption.
        corpora = open_corpora(task.train_data, task.validation_data, model.image_size)
        report_notes(corpora.notes)
        save_data_notes(directory, corpora.notes)
        train, validation, test = (
            read_retrieval_set(corpora.train, split)
            for split in ("train", "validation", "test")
        )
        say(
            f"{len(train):,} images for training, {len(validation):,} for validation "
            f"and {len(test):,} for the test"
        )
        if len(train) < 2:
            raise InputError(
                "`pairs` must have at least 4 images that share no caption, 2 of "
                f"them for the training. Received: {len(train)} images for the "
                "training. Add pairs."
            )
        _check_inputs_unchanged(directory, corpora.train, model)
        old_task = read_old_task(settings.old_task, [train, validation, test])

        # Measure the model before the training.
        say("measuring the model before the training")
        before = measure_recall(model, test)
        old_before = None if old_task is None else measure_recall(model, old_task.test)

        # Train the stages. The validation pairs choose the best epoch of each stage.
        def evaluate() -> dict[str, float]:
            return with_mean_recall(evaluate_pairs(model, validation))

        loss = build_loss(task.loss, model.image_encoder.output_shape[-1])
        config_of_batches = _with_smaller_batches(config, len(train))
        batch_size = config_of_batches.task.train_data.global_batch_size
        batches = TrainingBatches(config_of_batches, corpora.train, model)
        folder = directory / STAGES_FOLDER
        stages = finetune_stages(config, len(train))
        if settings.projection_epochs and not _has_checkpoint(folder, stages[:1]):
            say("stage 1: training the projections")
            _train_projections(model, config, train, validation, folder, batch_size)
        for number, stage in enumerate(stages, start=2):
            say(f"stage {number}: training {stage.description}")
            train_stage(
                model,
                stage,
                batches.start_at,
                loss,
                folder / stage.name,
                evaluate=evaluate,
                image_count=split_size(corpora.train, "train"),
                batch_size=batch_size,
                seed=config.trainer.seed,
                doctor=TrainingDoctor(
                    pair_count=len(train), path=folder / stage.name / FINDINGS_FILE
                ),
            )
        tuned_weights = read_weights(model)

        # Interpolate with the original weights. The validation pairs choose the factor.
        say("interpolating between the original and the fine-tuned weights")
        curve = interpolation_curve(
            model,
            initial_weights,
            tuned_weights,
            settings.factors,
            validation,
            None if old_task is None else old_task.validation,
        )
        factor = choose_factor(curve, settings.max_forgetting)
        say(f"the factor {factor:g} has the best recall of the validation pairs")

        # Save the model with the options of the base.
        tuned = ALIGN.from_preset(location.preset)
        interpolate_weights(tuned, initial_weights, tuned_weights, factor)
        save_by_chief(tuned, directory)

        # Measure the test pairs once, and write the index and the report.
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
            stages=[STAGE_1, *(stage.name for stage in stages)],
            notes=corpora.notes,
            command=command,
        )
        return run


# === Preparation ===

STAGE_1 = "1_projections"


def locate_base(name: str | os.PathLike) -> ModelLocation:
    """Returns the location of a model with Keras weights.

    Raises:
        InputError: if there is no such model, or it is an export or a `.keras` file.
    """
    refuse_keras_file(name, "model")
    location = locate_model(name)
    if "keras" in location.runtimes:
        return location
    formats = ", ".join(location.runtimes)
    raise InputError(
        "`model` must have Keras weights, because an export can't be trained. "
        f"Received: {name}, which has files for {formats} only. Pass the folder of the "
        "run or of the preset that was exported, or align_small_en."
    )


def _save_base(model: "ALIGN", directory: pathlib.Path) -> str:
    """Saves a model in memory to the folder of the run, and returns the path."""
    from align_keras.models import ALIGN

    if not isinstance(model, ALIGN):
        raise InputError(
            "`model` must be a name, a folder or an ALIGN. Received: "
            f"{type(model).__name__}. Pass the name or the folder of the model."
        )
    from align_keras.utils.files import atomic_folder

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


def _fingerprint(model: "ALIGN") -> str:
    return model.image_encoder.fingerprint() + model.text_encoder.fingerprint()


def _check_inputs_unchanged(
    directory: pathlib.Path, builder: Any, model: "ALIGN"
) -> None:
    """Raises if the pairs or the model have changed since the start of the run."""
    from align_keras.data.stored_pairs import split_size
    from align_keras.datasets.fingerprints import pairs_fingerprint
    from align_keras.runs.run_inputs import check_inputs

    check_inputs(
        directory,
        {
            "train_images": split_size(builder, "train"),
            "train_pairs": pairs_fingerprint(builder, "train"),
            "base_model": _fingerprint(model),
        },
    )


def _with_smaller_batches(config: ExperimentConfig, images: int) -> ExperimentConfig:
    """Returns a configuration whose epochs have several batches."""
    train = config.task.train_data
    size = min(train.global_batch_size, max(2, images // _MIN_STEPS_PER_EPOCH))
    train = train.model_copy(update={"global_batch_size": size})
    task = config.task.model_copy(update={"train_data": train})
    return config.model_copy(update={"task": task})


def finetune_command(config: ExperimentConfig, directory: pathlib.Path) -> str:
    """Returns the command of a fine-tuning."""
    words = [
        "align-keras finetune",
        f"--model {shlex.quote(str(config.finetune.model))}",
        f"--pairs {shlex.quote(str(config.task.train_data.pairs))}",
        f"--out {shlex.quote(str(directory))}",
    ]
    return " ".join(words)


def with_mean_recall(metrics: dict[str, float]) -> dict[str, float]:
    """Returns metrics with `mean_recall`, the mean of all recalls."""
    from align_keras.evaluation import mean_recall

    return {**metrics, "mean_recall": mean_recall(metrics)}


# === Stages ===


def finetune_stages(config: ExperimentConfig, images: int) -> "list[FinetuneStage]":
    """Returns the stages after the training of the projections.

    Args:
        config: `ExperimentConfig`.
        images: int, number of training images.
    """
    from align_keras.training.finetune_stage import FinetuneStage

    settings = config.finetune
    last_blocks = FinetuneStage(
        name="2_last_blocks",
        mode="last_blocks",
        blocks=settings.blocks,
        epochs=settings.blocks_epochs,
        rate=settings.blocks_rate,
        depth_decay=settings.depth_decay,
        patience=settings.patience,
    )
    all_layers = dataclasses.replace(
        last_blocks,
        name="3_all_layers",
        mode="full",
        epochs=settings.full_epochs,
        rate=settings.full_rate,
    )
    stages = [last_blocks]
    if images >= settings.full_min_images:
        stages.append(all_layers)
    return [stage for stage in stages if stage.epochs]


def _has_checkpoint(folder: pathlib.Path, stages: "Sequence[FinetuneStage]") -> bool:
    """Returns True if one of the stages has a checkpoint with all weights."""
    return any(
        any((folder / stage.name / "checkpoints").glob("ckpt-*.index"))
        for stage in stages
    )


def _train_projections(
    model: "ALIGN",
    config: ExperimentConfig,
    train: "RetrievalSet",
    validation: "RetrievalSet",
    folder: pathlib.Path,
    batch_size: int,
) -> None:
    """Trains the first stage and writes its recalls."""
    import json

    from align_keras.evaluation import mean_recall
    from align_keras.evaluation.pair_recall import rank_pairs
    from align_keras.runs.assemble import build_loss
    from align_keras.training.projection_stage import (
        compute_features,
        project_features,
        train_projections,
    )
    from align_keras.utils.files import atomic_write

    settings = config.finetune
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
        build_loss(config.task.loss, model.image_encoder.output_shape[-1]),
        evaluate=evaluate,
        epochs=settings.projection_epochs,
        rate=settings.projection_rate,
        batch_size=batch_size,
        patience=settings.patience,
        seed=config.trainer.seed,
    )
    path = folder / STAGE_1 / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = len(train) // batch_size
    with atomic_write(path) as file:
        for epoch, recall in enumerate(recalls):
            line = {"step": epoch * steps, "mean_recall": recall}
            file.write(json.dumps(line) + "\n")
    say(f"  mean recall of the validation pairs: {max(recalls):.1%}")

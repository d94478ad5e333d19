"""Fine-tuning of a trained model on the pairs of a user.

TensorFlow is imported after the configuration and the folder are checked, so that
mistakes in them are reported at once.
"""

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align_keras.config import ExperimentConfig, load_config
from align_keras.config.fields import without_queries
from align_keras.corpus.text_tables import decode, text_lines
from align_keras.embedders.locations import (
    DEFAULT_MODEL,
    locate_model,
)
from align_keras.runs.config_checks import check_teachers
from align_keras.runs.session import run_session
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError, check_tensorflow
from align_keras.utils.files import read_regular

if TYPE_CHECKING:
    from align_keras.models import ALIGN
    from align_keras.runs.finished_run import Run

# Experiment with the default recipe.
RECIPE = "own_pairs"
# Table of a run with the captions that the teacher chose.
CAPTIONED_FILE = "captioned.jsonl"


def finetune(
    model: "str | os.PathLike | ALIGN" = DEFAULT_MODEL,
    pairs: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    teacher: str | os.PathLike | None = None,
    texts: str | os.PathLike | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str | None = None,
    old_task: str | os.PathLike | None = None,
    config_files: Sequence[str | os.PathLike] = (),
    params_override: str | Mapping | Sequence = (),
) -> "Run":
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
        teacher: larger model from which the model also learns, as in
            `align_keras.load_model`. The model learns the similarities of the teacher
            (`task.distillation`). None learns from the captions alone.
        texts: text file with a text in each line, such as the queries that matter to
            you. The captions of an image without captions are then the texts that the
            teacher finds most similar. None leaves such images out.
        image_column: name of the column of images, or None to recognize it.
        caption_column: name of the column of captions, or None to recognize it.
        encoding: encoding of the table, or None for UTF-8.
        old_task: pairs on which the loss of former abilities is measured: a table, a
            folder, or a corpus such as `"stamps"`. None uses `"stamps"` if they are
            installed.
        config_files: YAML files that override the experiment `own_pairs`.
        params_override: values that override the files, as in `load_config`.

    Returns:
        Run with the fine-tuned model.

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
    options = {
        "image_column": image_column,
        "caption_column": caption_column,
        "encoding": encoding,
    }
    if texts is not None:
        pairs = _captioned_table(pairs, texts, teacher, directory, options)
        options = {}
    if isinstance(model, str | os.PathLike):
        name = locate_model(model).name
    else:
        from align_keras.runs.finetuning_run import save_base

        name = save_base(model, directory)
    overrides: dict[str, Any] = {
        "finetune.model": name,
        "finetune.old_task": None if old_task is None else str(old_task),
    }
    if teacher is not None:
        # The spaces of two trained models differ, also if their widths are equal.
        overrides["task.distillation.teacher"] = os.fspath(teacher)
        overrides["task.distillation.embedding_weight"] = 0.0
    for section in ("train_data", "validation_data"):
        overrides[f"task.{section}.pairs"] = pairs
        if texts is not None:
            # The teacher chooses a text for many images.
            overrides[f"task.{section}.split_by"] = "image_with_validation"
        for option, value in options.items():
            if value is not None:
                overrides[f"task.{section}.{option}"] = value
    if isinstance(params_override, str | os.PathLike | Mapping):
        params_override = [params_override]
    overrides = {key: value for key, value in overrides.items() if value is not None}
    config = load_config(RECIPE, config_files, [overrides, *params_override])
    return finetune_experiment(config, directory)


def _captioned_table(
    pairs: str,
    texts: str | os.PathLike,
    teacher: str | os.PathLike | None,
    directory: pathlib.Path,
    options: Mapping[str, str | None],
) -> str:
    """Writes a table in which the teacher captions the images without captions."""
    if teacher is None:
        raise InputError(
            "`teacher` must be a model if `texts` is set, because it chooses texts for "
            "the images. Received: teacher=None. Set it, or leave `texts` out."
        )
    if is_url(pairs):
        raise InputError(
            f"`pairs` must be local if `texts` is set. Received: {pairs}. Download the "
            "images first."
        )
    content = decode(texts, read_regular(texts), "utf-8")
    lines = [line.strip() for line in text_lines(content) if line.strip()]
    if not lines:
        raise InputError(
            "`texts` must be a file with a text in each line. Received: "
            f"{os.fspath(texts)}, which has none. Write the texts of your images."
        )
    locate_model(teacher)
    check_tensorflow("Fine-tuning")
    from align_keras.runs.distillation import caption_images

    table = directory.resolve() / CAPTIONED_FILE
    caption_images(pairs, list(dict.fromkeys(lines)), teacher, table, **options)
    return str(table)


def finetune_experiment(
    config: ExperimentConfig, model_dir: str | os.PathLike
) -> "Run":
    """Runs the fine-tuning that the section `finetune` of a configuration describes.

    Args:
        config: configuration with `finetune.model`.
        model_dir: folder of the run.
    """
    check_tensorflow("Fine-tuning")
    check_teachers(config)
    config = without_queries(config)
    location = locate_model(str(config.finetune.model))
    directory = pathlib.Path(model_dir)
    if location.folder.resolve() == directory.resolve():
        raise InputError(
            "`out` must be another folder than `model`, because the fine-tuned weights "
            f"would replace it. Received: {directory} for both. Choose another folder."
        )
    with run_session(config, directory):
        from align_keras.runs import finetuning_run

        return finetuning_run.finetune_model(
            config, directory, location, finetune_command(config, directory)
        )


def finetune_command(config: ExperimentConfig, directory: pathlib.Path) -> str:
    """Returns the command of a fine-tuning."""
    words = [
        "align-keras finetune",
        f"--model {shlex.quote(str(config.finetune.model))}",
        f"--pairs {shlex.quote(str(config.task.train_data.pairs))}",
        f"--out {shlex.quote(str(directory))}",
    ]
    for teacher in config.task.distillation.teacher or ():
        words.append(f"--teacher {shlex.quote(teacher.model)}")
    return " ".join(words)

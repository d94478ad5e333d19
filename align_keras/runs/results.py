"""Results of a finished run: export, search index and report."""

import pathlib
import shlex
import shutil
from collections.abc import Mapping

import numpy as np

from align_keras.config import ExperimentConfig
from align_keras.data import RetrievalSet
from align_keras.evaluation import flatten_captions
from align_keras.export.saved_model import write_saved_models
from align_keras.export.serving_files import write_serving_files
from align_keras.reports.examples import contact_sheet
from align_keras.reports.run_report import write_report
from align_keras.runs.card_facts import about_run
from align_keras.runs.finished_run import Run
from align_keras.runs.run_folder import PARAMS_FILE
from align_keras.runs.run_index import write_run_index
from align_keras.runs.standalone import check_standalone
from align_keras.search import Index, Query
from align_keras.training.doctor import FINDINGS_FILE, read_findings
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.files import atomic_folder
from align_keras.utils.progress import say

# Number of images and captions that check the export in another process.
_CHECKED = 64
# Number of captions from which the query of the example is chosen.
EXAMPLE_CAPTIONS = 1_500


def write_results(run: Run, data_notes: Mapping[str, Mapping], command: str) -> None:
    """Writes the export, the search index and the report into the folder of a run.

    Without tensorflow-text there is no export, and the weights of the run embed the
    queries of a search.

    Args:
        run: run with the trained model and the validation pairs.
        data_notes: metadata of the builder of each corpus. The name of the first corpus
            is in the title of the report.
        command: command that the export and the report name.
    """
    config, directory, model = run.config, run.directory, run.model
    pairs = run.read_validation_pairs()
    has_export = model.tokenizer.in_graph
    if has_export:
        say("exporting SavedModels for images, for texts and for both")
        with atomic_folder(directory / "export") as folder:
            write_saved_models(
                model, folder, card_arguments=about_run(directory, command)
            )
            write_serving_files(folder)
    else:
        say(
            "the run has no export, because SavedModels need tensorflow-text, which is "
            "missing or does not load. `align-keras export litert` works without it"
        )
        # The index would have another model than an export of earlier weights.
        shutil.rmtree(directory / "export", ignore_errors=True)

    image_embeddings = model.encode_images(pairs.images)
    captions, _ = flatten_captions(pairs.captions)
    text_embeddings = model.encode_texts(captions)
    index = write_run_index(
        directory, image_embeddings, pairs.ids, pairs.captions, pairs.images
    )

    if has_export:
        say("embedding with the export in a process without align_keras")
        difference = check_standalone(
            directory / "export",
            images=pairs.images[:_CHECKED],
            image_embeddings=image_embeddings[:_CHECKED],
            captions=captions[:_CHECKED],
            text_embeddings=text_embeddings[:_CHECKED],
        )
        say(f"  embeddings differ by at most {difference:.1e}")

    text_queries, image_queries = contact_sheet(
        image_embeddings,
        text_embeddings,
        pairs.images,
        pairs.captions,
        pairs.image_keys,
    )
    example_caption = choose_example_caption(index, pairs, text_embeddings)
    log = MetricsLog(directory / "metrics.jsonl")
    findings = read_findings(directory / FINDINGS_FILE)
    write_report(
        directory / "report.html",
        title=f"ALIGN trained on {next(iter(data_notes))}",
        parameters=config.model_dump(mode="json"),
        metrics=log.newest(),
        history=log.read(),
        text_queries=text_queries,
        image_queries=image_queries,
        data_notes=data_notes,
        next_steps=next_commands(config, directory, example_caption),
        command=command,
        findings=(
            None if findings is None else [finding.as_dict() for finding in findings]
        ),
    )


def choose_example_caption(
    index: Index, pairs: RetrievalSet, text_embeddings: np.ndarray
) -> str:
    """Returns the caption that finds its own image with the highest relevance.

    Args:
        index: `Index` of the images of `pairs`.
        pairs: `RetrievalSet`, the validation pairs.
        text_embeddings: float array (n, d), embeddings of the captions by the model of
            the index, in their order. n may be less than the number of captions.

    Returns:
        str, one of the first 1,500 captions that are embedded. The first caption, if
        no caption finds its image.
    """
    captions, image_rows = flatten_captions(pairs.captions)
    example, best_relevance = captions[0], -1.0
    for position, embedding in enumerate(text_embeddings[:EXAMPLE_CAPTIONS]):
        # The text of the query only requests the relevance of the hit.
        [best_hit] = index.search(embedding, Query("text", k=1))
        is_right = best_hit.path == pairs.ids[image_rows[position]]
        if is_right and (best_hit.relevance or 0) > best_relevance:
            example, best_relevance = captions[position], best_hit.relevance or 0
    return example


def next_commands(
    config: ExperimentConfig, directory: pathlib.Path, caption: str
) -> list[str]:
    """Returns commands that are useful after a run.

    Args:
        config: `ExperimentConfig`.
        directory: `pathlib.Path`, folder of the run.
        caption: query of the search.
    """
    folder = shlex.quote(str(directory))
    commands = [
        f"align-keras search --model_dir {folder} {shlex.quote(caption)}",
        f"tensorboard --logdir {folder}/tensorboard",
        f"align-keras train --config_file {folder}/{PARAMS_FILE} "
        f"--params_override trainer.seed=1 --model_dir {folder}_seed_1",
    ]
    if config.task.train_data.pairs is None:
        commands.append("align-keras quickstart --pairs YOUR_PAIRS.csv")
    return commands

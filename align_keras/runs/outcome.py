"""What a finished run leaves: preset, export, search index and report."""

from align_keras.config import as_dict
from align_keras.evaluation.positives import flatten_captions
from align_keras.export.saved_model import write_saved_models
from align_keras.export.serving_files import write_serving_files
from align_keras.reports.contact_sheet import contact_sheet
from align_keras.reports.report import write_report
from align_keras.runs.about_run import about_run
from align_keras.search import SearchIndex
from align_keras.search.standalone_check import check_standalone
from align_keras.utils.files import atomic_folder
from align_keras.utils.progress import say

# Pictures and captions that the export embeds again in a process of its own.
_CHECKED = 64


def finish_run(run, command, next_steps):
    """Writes what a trained run leaves behind, and proves that the export works.

    Args:
        run: `Run`, trained.
        command: str, what was run, for the report.
        next_steps: list of str, commands for the report.
    """
    directory, model, pairs = run.directory, run.model, run.test_set
    model.save_to_preset(directory)
    say("exporting SavedModels for pictures, for texts and for both")
    about = about_run(directory, command)
    with atomic_folder(directory / "export") as folder:
        write_saved_models(model, folder, about=about)
        write_serving_files(folder)
    image_embeddings = model.encode_images(pairs.images)
    captions, _ = flatten_captions(pairs.captions)
    text_embeddings = model.encode_texts(captions)
    SearchIndex.build(
        image_embeddings, pairs.ids, pairs.captions, thumbnails=pairs.images
    ).save(directory / "index")
    say("embedding and searching with the export in a process without align_keras")
    proof = check_standalone(
        directory / "export",
        images=pairs.images[:_CHECKED],
        image_embeddings=image_embeddings[:_CHECKED],
        captions=captions[:_CHECKED],
        text_embeddings=text_embeddings[:_CHECKED],
        index=directory / "index",
        queries=captions[:1],
    )
    say(f"  embeddings differ by at most {proof['max_abs_difference']:.1e}")
    text_queries, image_queries = contact_sheet(
        image_embeddings,
        text_embeddings,
        pairs.images,
        pairs.captions,
        pairs.image_keys,
    )
    write_report(
        directory / "report.html",
        title=f"ALIGN trained on {run.config.task.train_data.corpus}",
        parameters=as_dict(run.config),
        metrics=run.last_metrics(),
        history=run.log(),
        text_queries=text_queries,
        image_queries=image_queries,
        data_notes=run.notes,
        next_steps=next_steps,
        command=command,
    )

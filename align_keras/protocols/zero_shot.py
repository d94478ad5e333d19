"""Classification by class names in templates (table 4)."""

from align_keras.protocols.class_data import labelled_images, tfds_name
from align_keras.protocols.protocol import (
    Evaluation,
    Protocol,
    Request,
    columns_of_rows,
    left_out,
)

# Sets that keep labels of classes they have no images of.
_OF_OCCURRING_CLASSES = ("imagenet_r", "imagenet_a", "stamps")


def run(encoders, request: Request) -> Evaluation:
    """Finds the nearest class name, over an ensemble of templates."""
    from align_keras import evaluation
    from align_keras.datasets import benchmarks

    data = labelled_images(request)
    if tfds_name(request.data) in _OF_OCCURRING_CLASSES:
        data = benchmarks.only_occurring_classes(data)
    benchmarks.check_names_for_prompts(data.class_names)
    templates = benchmarks.read_templates(request.templates)
    request.check_columns({"class", *data.columns})
    images, rows = encoders.readable_images(data.images)
    classes = evaluation.class_embeddings(encoders.texts, data.class_names, templates)
    found = evaluation.zero_shot_classification(images, classes, data.labels[rows])
    return classified("zero_shot", data, rows, found)


def classified(name: str, data, rows, found, extra=()) -> Evaluation:
    """Returns what a protocol finds that names a class for each image.

    Args:
        name: what the metrics begin with.
        data: `LabelledImages`.
        rows: int array (n,), those of the images that could be read.
        found: `Classification` of these.
        extra: pairs of str and float, further metrics.
    """
    from align_keras import evaluation

    labels, classes = data.labels[rows], len(data.class_names)
    statistics = evaluation.classification_statistics(name, found, labels, classes)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"images": float(len(rows)), "classes": float(classes)}
    return Evaluation(
        metrics | dict(extra) | left_out(len(data.images) - len(rows)),
        [(statistics, class_columns(data, rows))],
        classification={
            "labels": labels,
            "predictions": found.predictions,
            "class_names": data.class_names,
        },
    )


def class_columns(data, rows) -> dict[str, list]:
    """Returns the columns of some rows of `LabelledImages`, and their classes."""
    classes = [data.class_names[data.labels[row]] for row in rows]
    return columns_of_rows(data.columns, rows) | {"class": classes}


ZERO_SHOT = Protocol(
    "zero_shot",
    "classification by class names in templates",
    "table 4",
    run,
    options=("split", "classes", "templates", "metadata", "engine"),
)

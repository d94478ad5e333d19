"""The protocols of `align-keras evaluate`: data and encoders in, metrics out."""

import dataclasses
import pathlib

from align_keras import evaluation
from align_keras.evaluation.positives import flatten_captions
from align_keras.protocols import cxc_protocols, evaluation_data, fine_tuned_protocols
from align_keras.protocols.embedding_cache import content_digest
from align_keras.protocols.evaluation_splits import tfds_name
from align_keras.protocols.protocol_types import Evaluation, pictures_left_out
from align_keras.utils.errors import InputError

KS = (1, 5, 10)
# Sets that keep labels of classes they have no pictures of.
_OF_OCCURRING_CLASSES = ("imagenet_r", "imagenet_a", "stamps")


def retrieval(encoders, request, options):
    """Picture → caption and caption → picture, any number of captions a picture."""
    data = evaluation_data.captioned_images(request)
    options.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    captions, image_of = flatten_captions(data.captions)
    texts = encoders.texts(captions)
    # The paper's sets take a picture's own captions alone as right; elsewhere equal
    # captions and equal pictures can't be told apart by any model.
    shared = request.name not in ("flickr30k", "coco")
    positives = (
        evaluation.shared_positives(list(map(_key, data.images)), captions, image_of)
        if shared
        else evaluation.own_positives(len(data), image_of)
    )
    ranks = evaluation.retrieval_ranks(images, texts, positives)
    metrics = dict(evaluation.metrics_of_retrieval_ranks(ranks, positives, KS))
    metrics |= {"pictures": float(len(data)), "captions": float(len(captions))}
    of_captions = {
        name: [values[row] for row in image_of] for name, values in data.columns.items()
    }
    statistics = {
        direction: evaluation.mean_statistics(
            evaluation.item_outcomes(f"{direction}/recall_at_", own, KS)
        )
        for direction, own in ranks.items()
    }
    return Evaluation(
        metrics | pictures_left_out(data.missing),
        [(statistics["i2t"], data.columns), (statistics["t2i"], of_captions)],
        retrieval={
            "image_embeddings": images,
            "text_embeddings": texts,
            "images": data.images,
            "captions": captions,
            "caption_image_index": image_of,
            "positives": positives,
            "ranks": ranks,
        },
    )


def _key(image):
    return content_digest(pathlib.Path(image) if isinstance(image, str) else image)


def zero_shot(encoders, request, options):
    """Classification by the nearest class name, over an ensemble of templates."""
    from align_keras.datasets import benchmarks

    data = evaluation_data.labelled_images(request)
    if tfds_name(request.name) in _OF_OCCURRING_CLASSES:
        data = benchmarks.only_occurring_classes(data)
    benchmarks.check_names_for_prompts(data.class_names)
    templates = benchmarks.read_templates(options.templates)
    options.check_columns({"class", *data.columns})
    images, rows = encoders.readable_images(data.images)
    labels = data.labels[rows]
    classes = evaluation.class_embeddings(encoders.texts, data.class_names, templates)
    found = evaluation.zero_shot_classification(images, classes, labels)
    return _classified("zero_shot", data, rows, found)


def _classified(name, data, rows, found, extra=()):
    """The result of a protocol that names a class for each picture."""
    labels, classes = data.labels[rows], len(data.class_names)
    metrics = dict(evaluation.classification_metrics(name, found, labels, classes))
    metrics |= {"pictures": float(len(rows)), "classes": float(classes)}
    columns = {
        column: [values[row] for row in rows] for column, values in data.columns.items()
    }
    columns["class"] = [data.class_names[label] for label in labels]
    statistics = evaluation.classification_statistics(name, found, labels, classes)
    return Evaluation(
        metrics | dict(extra) | pictures_left_out(len(data.images) - len(rows)),
        [(statistics, columns)],
        classification={
            "labels": labels,
            "predictions": found.predictions,
            "class_names": data.class_names,
        },
    )


def _two_splits(encoders, request, options):
    """(data, embeddings, rows) of the training and of the test split."""
    train, test = evaluation_data.train_and_test(request)
    options.check_columns({"class", *test.columns})
    return [(data, *encoders.readable_images(data.images)) for data in (train, test)]


def knn(encoders, request, options):
    """Recall of the right class among the nearest training pictures."""
    (train, gallery, train_rows), (test, queries, rows) = _two_splits(
        encoders, request, options
    )
    k = min(max(KS), len(gallery))
    neighbors, _ = evaluation.nearest_neighbors(queries, gallery, k)
    labels = test.labels[rows]
    neighbor_labels = train.labels[train_rows][neighbors]
    ranks = evaluation.neighbor_ranks(neighbor_labels, labels)
    statistics = evaluation.knn_statistics(ranks, KS)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"pictures": float(len(rows)), "gallery": float(len(gallery))}
    columns = {name: [v[row] for row in rows] for name, v in test.columns.items()}
    columns["class"] = [test.class_names[label] for label in labels]
    return Evaluation(
        metrics | pictures_left_out(len(test.images) - len(rows)),
        [(statistics, columns)],
        classification={
            "labels": labels,
            "predictions": neighbor_labels[:, 0],
            "class_names": test.class_names,
        },
    )


def linear_probe(encoders, request, options):
    """Logistic regression on the embeddings of the frozen image encoder."""
    (train, features, train_rows), (test, queries, rows) = _two_splits(
        encoders, request, options
    )
    found, chosen = evaluation.probe(
        features,
        train.labels[train_rows],
        queries,
        test.labels[rows],
        classes=len(train.class_names),
    )
    return _classified("linear_probe", test, rows, found, chosen)


def multi30k(encoders, request, options):
    """Mean recall in English, German, French and Czech."""
    data = evaluation_data.multilingual_captions(request)
    options.check_columns(data.columns)
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    # As in `retrieval`: the paper's set takes a picture's own captions alone as right.
    keys = None if request.name == "multi30k" else list(map(_key, data.images))
    ranks = evaluation.multilingual_ranks(
        lambda _: images, encoders.texts, data.images, data.captions, keys
    )
    statistics = evaluation.mean_statistics(evaluation.multilingual_outcomes(ranks))
    metrics = dict(evaluation.multilingual_metrics(ranks))
    metrics |= {"pictures": float(len(images))}
    return Evaluation(
        metrics | pictures_left_out(data.missing),
        [(statistics, data.columns)],
    )


def simlex(encoders, request, options):
    """Rank correlation of the [CLS] vectors' cosines with rated word similarity."""
    rows = [dataclasses.astuple(p) for p in evaluation_data.similar_words(request)]
    _, _, speech, _, quartile, hard = zip(*rows, strict=True)
    columns = {
        "part_of_speech": speech,
        "concreteness_quartile": quartile,
        "is_hard": hard,
    }
    options.check_columns(columns)
    if encoders.model.encode_words is None:
        raise InputError(
            "simlex needs the [CLS] vector before the projection, which an export "
            "hasn't got; give --model the run folder or the Hugging Face folder."
        )
    cosines = evaluation.word_cosines(encoders.model.encode_words, rows)
    return Evaluation(
        dict(evaluation.simlex_metrics(cosines, rows)),
        [(evaluation.simlex_statistics(cosines, rows), columns)],
    )


def composed(encoders, request, options):
    """Picture ± words finds the icon that differs by these words."""
    from align_keras.datasets import benchmarks

    if request.name != "icons":
        raise InputError(
            f"--data must be icons, received {request.name!r}; their names tell which "
            "icon is another one plus a word."
        )
    data = evaluation_data.captioned_images(request)
    options.check_columns({"sign", "words", *data.columns})
    images, rows = encoders.readable_images(data.images)
    data = data.of_rows(rows)
    queries = benchmarks.composed_icon_queries(data.image_ids)
    columns = {
        "sign": ["plus" if query.sign > 0 else "minus" for query in queries],
        "words": [query.words for query in queries],
    } | {
        name: [own[query.image] for query in queries]
        for name, own in data.columns.items()
    }
    ranks = evaluation.rank_composed_queries(
        encoders.texts, images, queries, text_weight=options.text_weight
    )
    metrics = dict(evaluation.composed_metrics(ranks, queries, len(data), KS))
    metrics |= {"pictures": float(len(data))}
    return Evaluation(
        metrics | pictures_left_out(data.missing),
        [(evaluation.composed_statistics(ranks, KS), columns)],
    )


# Name → (function, the data that it takes where none is named).
PROTOCOLS = {
    "retrieval": (retrieval, None),
    "cxc_retrieval": (cxc_protocols.cxc_retrieval, "cxc"),
    "cxc_similarity": (cxc_protocols.cxc_similarity, "cxc"),
    "zero_shot": (zero_shot, None),
    "knn": (knn, None),
    "linear_probe": (linear_probe, None),
    "multi30k": (multi30k, "multi30k"),
    "simlex": (simlex, "simlex999"),
    "composed": (composed, "icons"),
    "imagenet_frozen": (fine_tuned_protocols.imagenet_frozen, None),
    "imagenet_full": (fine_tuned_protocols.imagenet_full, None),
    "fine_grained": (fine_tuned_protocols.fine_grained, None),
    "vtab": (fine_tuned_protocols.vtab, "vtab"),
}

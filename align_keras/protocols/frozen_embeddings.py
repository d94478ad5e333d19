"""What the image embeddings tell of classes: kNN (tables 8 to 10), linear probe."""

from align_keras.protocols.class_data import train_and_test
from align_keras.protocols.protocol import (
    PAPERS_KS,
    Evaluation,
    Protocol,
    Request,
    left_out,
)
from align_keras.protocols.zero_shot import class_columns, classified


def _two_splits(encoders, request):
    """(data, embeddings, labels, rows) of the training and of the test split."""
    train, test = train_and_test(request)
    request.check_columns({"class", *test.columns})
    for data in (train, test):
        embeddings, rows = encoders.readable_images(data.images)
        yield data, embeddings, data.labels[rows], rows


def knn(encoders, request: Request) -> Evaluation:
    """Looks for the right class among the nearest training images."""
    from align_keras import evaluation

    (_, gallery, gallery_labels, _), (test, queries, labels, rows) = _two_splits(
        encoders, request
    )
    k = min(max(PAPERS_KS), len(gallery))
    neighbors, _ = evaluation.nearest_neighbors(queries, gallery, k)
    neighbor_labels = gallery_labels[neighbors]
    ranks = evaluation.neighbor_ranks(neighbor_labels, labels)
    statistics = evaluation.recall_statistics("knn/", ranks, PAPERS_KS)
    metrics = dict(evaluation.whole_metrics(statistics))
    metrics |= {"images": float(len(rows)), "gallery": float(len(gallery))}
    return Evaluation(
        metrics | left_out(len(test.images) - len(rows)),
        [(statistics, class_columns(test, rows))],
        classification={
            "labels": labels,
            "predictions": neighbor_labels[:, 0],
            "class_names": test.class_names,
        },
    )


def linear_probe(encoders, request: Request) -> Evaluation:
    """Fits logistic regression on the embeddings of the frozen image encoder."""
    from align_keras import evaluation

    (train, features, train_labels, _), (test, queries, labels, rows) = _two_splits(
        encoders, request
    )
    found, chosen = evaluation.probe(
        features, train_labels, queries, labels, classes=len(train.class_names)
    )
    return classified("linear_probe", test, rows, found, chosen)


_OPTIONS = ("split", "train_split", "classes", "metadata", "engine")
KNN = Protocol(
    "knn", "the class of the nearest training images", "tables 8 to 10", knn, _OPTIONS
)
LINEAR_PROBE = Protocol(
    "linear_probe", "logistic regression on the embeddings", "", linear_probe, _OPTIONS
)

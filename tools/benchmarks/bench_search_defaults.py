"""Chooses the default text weight and label threshold of a model for searches.

    python tools/benchmarks/bench_search_defaults.py --model align_small_en

The values are in the file search.json of the model. The script prints

- the recall at 10 of composed queries, icons plus words, for some weights of the words,
  on both splits of the corpus `icons`. The weight with the highest recall on the split
  `train` is chosen.
- the recall of queries that subtract words, from icons and from the names of icons, for
  some weights of the words and for the method of `encode_query`.
- the F1 of labels with a common threshold for each source of `bench_held_out.py`. The
  labels are the captions of the source. The threshold with the highest mean is chosen.
- precision, recall and F1 of the 15 categories of Tux Paint's stamps with thresholds
  that were calibrated on one half of the stamps and measured on the other half.

`align_small_en` was not trained on any of these images.
"""

import argparse
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench_held_out

TEXT_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
THRESHOLDS = np.arange(0.1, 0.6, 0.01)


def print_text_weights(model):
    """Prints the recall of composed queries for each weight of the words."""
    import tensorflow_datasets as tfds

    from align_keras.datasets import benchmarks, open_corpus
    from align_keras.evaluation import composed_metrics, rank_composed_queries

    best = {}
    for split in ("train", "test"):
        rows = list(tfds.as_numpy(open_corpus("icons").as_dataset(split=split)))
        images = model.encode_images([row["image"] for row in rows])
        queries = benchmarks.composed_icon_queries([row["id"].decode() for row in rows])
        recalls = {}
        for weight in TEXT_WEIGHTS:
            ranks = rank_composed_queries(
                model.encode_texts, images, queries, text_weight=weight
            )
            metrics = dict(composed_metrics(ranks, queries, len(images)))
            recalls[weight] = 100 * metrics["plus/recall_at_10"]
        count = int(metrics["plus/queries"])
        print(f"{split}: {count:,} queries plus words among {len(images):,} icons")
        alone = metrics["plus/image_alone/recall_at_10"]
        print(f"  the image alone: {100 * alone:.1f}")
        for weight, recall in recalls.items():
            print(f"  text weight {weight:g}: {recall:.1f}")
        best[split] = max(recalls, key=recalls.__getitem__)
        names = [row["captions"][0].decode() for row in rows]
        print_subtraction(model, images, names, queries)
    print(f"text weight: {best['train']:g}")


def print_subtraction(model, images, names, queries):
    """Prints the recall of icons, and of their names, minus words."""
    from align_keras.evaluation import rank_of_best_positive

    queries = [query for query in queries if query.sign < 0]
    if len(queries) > 1_000:
        queries = queries[::2]
    rows = [query.image for query in queries]
    targets = [query.targets for query in queries]
    words = model.encode_texts([query.words for query in queries])
    print(f"  {len(queries):,} queries minus words: recall at 1 and 10")
    for source, vectors, options in (
        ("image", images[rows], {"leave_out": np.array(rows)}),
        ("name", model.encode_texts([names[row] for row in rows]), {}),
    ):
        cosines = np.maximum((vectors * words).sum(axis=1, keepdims=True), 0)
        methods = {f"minus {weight:g} words": weight for weight in (0.0, 0.2, 0.5, 1.0)}
        for method, weight in (methods | {"without the part": cosines}).items():
            ranks = rank_of_best_positive(
                vectors - weight * words, images, targets, **options
            )
            values = ", ".join(f"{100 * np.mean(ranks < k):.1f}" for k in (1, 10))
            print(f"    {source}, {method}: {values}")


def print_label_thresholds(model, sources):
    """Prints the F1 of the captions of each source as labels."""
    curves = {}
    for name, (images, captions) in sources.items():
        labels = sorted({text for row in captions for text in row})
        number_of = {text: number for number, text in enumerate(labels)}
        is_correct = np.zeros((len(images), len(labels)), bool)
        for image, row in enumerate(captions):
            is_correct[image, [number_of[text] for text in row]] = True
        scores = model.encode_images(images) @ model.encode_texts(labels).T
        curves[name] = np.array(
            [f1_score(scores >= threshold, is_correct)[2] for threshold in THRESHOLDS]
        )
    mean = np.mean(list(curves.values()), axis=0)
    chosen = int(mean.argmax())
    for name, curve in curves.items():
        print(
            f"{name}: F1 {curve[chosen]:.1f}, highest {curve.max():.1f} with "
            f"{THRESHOLDS[curve.argmax()]:.2f}"
        )
    print(f"label threshold: {THRESHOLDS[chosen]:.2f}, mean F1 {mean[chosen]:.1f}")


def f1_score(is_chosen, is_correct):
    """Returns precision, recall and F1 of labels in percent."""
    hits = (is_chosen & is_correct).sum()
    precision = hits / max(is_chosen.sum(), 1)
    recall = hits / is_correct.sum()
    return (
        100 * precision,
        100 * recall,
        200 * hits / (is_chosen.sum() + is_correct.sum()),
    )


def print_categories(model):
    """Prints the results of thresholds that one half of the stamps calibrates."""
    from align_keras.datasets import benchmarks, open_corpus
    from align_keras.models.label_thresholds import calibrate_thresholds

    corpus = open_corpus("stamps")
    halves = []
    for split in ("train", "test"):
        data = benchmarks.stamps_by_category(corpus, split)
        names = list(data.class_names)
        scores = model.encode_images(list(data.images)) @ model.encode_texts(names).T
        halves.append((scores, np.asarray(data.labels), names))
    for (scores, labels, names), (other_scores, other_labels, _) in (
        halves,
        halves[::-1],
    ):
        print(f"calibrated on {len(scores)}, measured on {len(other_scores)}")
        calibrated = calibrate_thresholds(scores, names, [[names[i]] for i in labels])
        best = calibrate_thresholds(
            other_scores, names, [[names[i]] for i in other_labels]
        )
        is_correct = np.eye(len(names), dtype=bool)[other_labels]
        of_each = np.array(
            [calibrated.by_label.get(name, calibrated.default) for name in names]
        )
        for row, thresholds in (
            ("single, calibrated", calibrated.default),
            ("single, best for the measured half", best.default),
            ("of each label, calibrated", of_each),
        ):
            values = f1_score(other_scores >= thresholds, is_correct)
            print(f"  {row}: " + ", ".join(f"{value:.1f}%" for value in values))


def main():
    """Prints the choices and their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="align_small_en")
    arguments = parser.parse_args()
    import align_keras

    model = align_keras.load_model(arguments.model)
    print_text_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        sources = bench_held_out.read_sources(
            bench_held_out.GCOMPRIS, bench_held_out.WORD_CARDS, pathlib.Path(folder)
        )
        print_label_thresholds(model, sources)
    print_categories(model)


if __name__ == "__main__":
    main()

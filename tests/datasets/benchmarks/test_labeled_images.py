"""Tests of the removal of classes without images."""

import numpy as np

from align_keras.datasets.benchmarks.labeled_images import (
    LabeledImages,
    only_occurring_classes,
)


def test_occurring_classes_keep_their_order_and_images():
    labels = np.array([7, 2, 7, 4])
    names = [f"class {row}" for row in range(9)]
    columns = {"style": ["a", "b", "c", "d"]}
    fewer = only_occurring_classes(LabeledImages(list("wxyz"), labels, names, columns))
    assert fewer.class_names == ["class 2", "class 4", "class 7"]
    assert fewer.labels.tolist() == [2, 0, 2, 1]
    assert fewer.images == list("wxyz") and fewer.columns == columns


def test_nothing_changes_if_all_classes_occur():
    data = LabeledImages(["a", "b"], np.array([1, 0]), ["x", "y"])
    fewer = only_occurring_classes(data)
    assert fewer.class_names == ["x", "y"] and fewer.labels.tolist() == [1, 0]

"""Tests of clusters and duplicates, against plain NumPy and scikit-learn."""

import numpy as np
import pytest

from align_keras.corpus.scores import semantic_duplicates as module
from align_keras.corpus.scores.semantic_duplicates import (
    ImageClusters,
    cluster_images,
    duplicate_similarities,
)
from align_keras.utils.errors import InputError


def blobs(seed, clusters, images, dimension=16, noise=0.05):
    """Returns embeddings near random directions, and the direction of each."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(clusters, dimension))
    labels = generator.integers(clusters, size=images)
    rows = centers[labels] + noise * generator.normal(size=(images, dimension))
    return rows.astype(np.float32), labels


def plain_similarities(embeddings):
    """Returns the scores of the images of one cluster, image by image in float64."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    center = unit.mean(axis=0)
    order = np.argsort(unit @ center / np.linalg.norm(center))
    similarities = np.full(len(unit), -1.0)
    for position, row in enumerate(order):
        for earlier in order[:position]:
            cosine = float(unit[row] @ unit[earlier])
            similarities[row] = max(similarities[row], cosine)
    return similarities


@pytest.mark.parametrize("rows_per_block", [7, 2048])
def test_one_cluster_equals_the_plain_loop(monkeypatch, rows_per_block):
    monkeypatch.setattr(module, "COMPARED_ROWS_PER_BLOCK", rows_per_block)
    embeddings, _ = blobs(0, 5, 60)
    embeddings = embeddings.astype(np.float64)
    clusters = cluster_images(embeddings)
    assert len(clusters.centers) == 1 and not clusters.labels.any()
    np.testing.assert_allclose(
        duplicate_similarities(embeddings, clusters),
        plain_similarities(embeddings),
        atol=1e-6,
    )


def test_of_two_duplicates_the_one_far_from_the_center_is_kept():
    # The image 2 is a duplicate of the image 1, which is farther from the center.
    angles = np.deg2rad([0, 40, 38, -30])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
    similarities = duplicate_similarities(embeddings, cluster_images(embeddings))
    is_kept = similarities < 0.99
    assert is_kept.tolist() == [True, True, False, True]
    assert similarities.min() == -1


def test_images_of_different_clusters_are_not_compared():
    embeddings = np.ones((4, 3), np.float32)
    centers = np.eye(3, dtype=np.float32)[:2]
    clusters = ImageClusters(centers, np.array([0, 1, 0, 1], np.int32))
    similarities = duplicate_similarities(embeddings, clusters)
    assert similarities.tolist() == pytest.approx([-1, -1, 1, 1])


def test_empty_clusters_and_zero_rows_are_allowed():
    embeddings = np.zeros((2, 3), np.float32)
    clusters = ImageClusters(np.eye(3, dtype=np.float32), np.array([2, 2], np.int32))
    assert duplicate_similarities(embeddings, clusters).tolist() == [-1, 0]


@pytest.mark.ci
def test_each_image_is_in_the_cluster_of_the_nearest_center():
    metrics = pytest.importorskip("sklearn.metrics")
    embeddings, _ = blobs(1, 6, 600)
    stored = embeddings.astype(np.float16)
    clusters = cluster_images(stored, 6)
    cosines = metrics.pairwise.cosine_similarity(stored, clusters.centers)
    np.testing.assert_array_equal(clusters.labels, cosines.argmax(axis=1))
    # Each center has the direction of the mean of its images.
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for label, center in enumerate(clusters.centers):
        mean = unit[clusters.labels == label].mean(axis=0)
        assert mean @ center / np.linalg.norm(mean) > 0.999
    np.testing.assert_allclose(np.linalg.norm(clusters.centers, axis=1), 1, rtol=1e-5)
    again = cluster_images(stored, 6)
    np.testing.assert_array_equal(clusters.labels, again.labels)


@pytest.mark.ci
def test_each_cluster_equals_the_plain_loop():
    metrics = pytest.importorskip("sklearn.metrics")
    embeddings, _ = blobs(2, 4, 200, noise=0.3)
    clusters = cluster_images(embeddings, 4)
    similarities = duplicate_similarities(embeddings, clusters)
    for label, center in enumerate(clusters.centers):
        rows = np.flatnonzero(clusters.labels == label)
        to_center = metrics.pairwise.cosine_similarity(embeddings[rows], center[None])
        order = rows[np.argsort(to_center[:, 0])]
        cosines = metrics.pairwise.cosine_similarity(embeddings[order])
        cosines[np.triu_indices(len(order))] = -1
        np.testing.assert_allclose(similarities[order], cosines.max(axis=1), atol=1e-5)


def test_the_default_number_of_clusters_grows_with_the_images(monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_SEMANTIC_CLUSTER", 20)
    embeddings, _ = blobs(3, 3, 70)
    assert len(cluster_images(embeddings).centers) == 3
    monkeypatch.setattr(module, "MAX_SEMANTIC_CLUSTERS", 2)
    assert len(cluster_images(embeddings).centers) == 2


def test_more_clusters_than_images_are_refused():
    with pytest.raises(InputError, match="score.clusters must be at most the number"):
        cluster_images(np.ones((3, 2), np.float32), 4)

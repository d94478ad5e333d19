"""Clusters of image embeddings and the duplicates within them, as in SemDeDup.

References:
    Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic
    deduplication", arXiv:2303.09540, section 3.
"""

import dataclasses

import numpy as np

from align_keras.corpus.duplicates.embeddings import unit_rows
from align_keras.utils.errors import InputError

# Average number of images of a cluster if the number of clusters isn't configured. A
# cluster of this size is compared in milliseconds.
IMAGES_PER_SEMANTIC_CLUSTER = 1000
# Number of clusters for 440 million images in section 4.1 of the paper.
MAX_SEMANTIC_CLUSTERS = 50_000
# Number of images for each cluster from which k-means learns.
_SAMPLE_PER_CLUSTER = 256
_ITERATIONS = 20
# Number of rows that are assigned to clusters, or compared with a cluster, at once.
COMPARED_ROWS_PER_BLOCK = 2048
# Score of the first image of a cluster, the lowest cosine.
FIRST_IMAGE = -1.0


@dataclasses.dataclass(frozen=True)
class ImageClusters:
    """Clusters of images.

    Attributes:
        centers: float32 array (clusters, d) with rows of unit length.
        labels: int32 array (n,), the cluster of each image.
    """

    centers: np.ndarray
    labels: np.ndarray


def cluster_images(
    embeddings: np.ndarray, clusters: int | None = None, seed: int = 0
) -> ImageClusters:
    """Clusters embeddings by k-means with the cosine similarity (spherical k-means).

    Args:
        embeddings: float array (n, d), possibly memory-mapped.
        clusters: int, number of clusters. None makes one cluster for each 1,000 images,
            but at most 50,000, and at least one.
        seed: int, seed of the sample from which k-means learns, and of k-means.

    Returns:
        `ImageClusters`.

    Raises:
        InputError: if there are fewer images than clusters.
    """
    count = len(embeddings)
    if clusters is None:
        clusters = min(
            max(1, count // IMAGES_PER_SEMANTIC_CLUSTER), MAX_SEMANTIC_CLUSTERS
        )
    if clusters > count:
        raise InputError(
            f"score.clusters must be at most the number of images, {count}. Received: "
            f"{clusters}. Choose fewer clusters, or leave score.clusters out."
        )
    sample_size = min(count, _SAMPLE_PER_CLUSTER * clusters)
    sample = np.random.default_rng(seed).choice(count, sample_size, replace=False)
    unit = unit_rows(embeddings, np.sort(sample))
    if clusters == 1:
        mean = unit.mean(axis=0, keepdims=True)
        centers = unit_rows(mean, np.arange(1))
        return ImageClusters(centers, np.zeros(count, np.int32))
    # Small corpora have one cluster and don't need faiss.
    import faiss

    means = faiss.Kmeans(
        unit.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        max_points_per_centroid=_SAMPLE_PER_CLUSTER,
        min_points_per_centroid=1,
    )
    means.train(unit)
    labels = np.empty(count, np.int32)
    for start in range(0, count, COMPARED_ROWS_PER_BLOCK):
        rows = np.arange(start, min(start + COMPARED_ROWS_PER_BLOCK, count))
        labels[rows] = means.index.search(unit_rows(embeddings, rows), 1)[1][:, 0]
    return ImageClusters(np.asarray(means.centroids), labels)


def duplicate_similarities(
    embeddings: np.ndarray, clusters: ImageClusters
) -> np.ndarray:
    """Returns the largest cosine of each image to an earlier image of its cluster.

    The images of a cluster are sorted by their cosine to its center, the lowest first.
    SemDeDup keeps an image if no earlier image has a cosine above 1 - ε. Of several
    duplicates, it therefore keeps the one that is farthest from the center. The earlier
    images include dropped ones, as in the code of SemDeDup.

    Args:
        embeddings: float array (n, d), possibly memory-mapped.
        clusters: `ImageClusters` of the same images.

    Returns:
        float32 array (n,), -1 for the first image of each cluster.

    Example:

    >>> rows = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    >>> clusters = ImageClusters(np.array([[0, 1]], np.float32), np.zeros(3, np.int32))
    >>> duplicate_similarities(rows, clusters).round(3)
    array([-1.   ,  0.995,  0.1  ], dtype=float32)
    """
    similarities = np.full(len(embeddings), FIRST_IMAGE, np.float32)
    by_cluster = np.argsort(clusters.labels, kind="stable")
    sizes = np.bincount(clusters.labels, minlength=len(clusters.centers))
    members = np.split(by_cluster, np.cumsum(sizes)[:-1])
    for center, rows in zip(clusters.centers, members, strict=True):
        unit = unit_rows(embeddings, rows)
        order = np.argsort(unit @ center, kind="stable")
        unit = unit[order]
        for start in range(0, len(rows), COMPARED_ROWS_PER_BLOCK):
            stop = min(start + COMPARED_ROWS_PER_BLOCK, len(rows))
            cosines = unit[start:stop] @ unit[:stop].T
            is_earlier = np.arange(stop) < np.arange(start, stop)[:, None]
            cosines = np.where(is_earlier, cosines, FIRST_IMAGE)
            similarities[rows[order[start:stop]]] = cosines.max(axis=1)
    return np.clip(similarities, FIRST_IMAGE, 1)

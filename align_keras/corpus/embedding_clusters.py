"""Clusters of embeddings: which pictures are worth comparing."""

import contextlib
import hashlib

import numpy as np

from align_keras.utils.extras import needs

# Fewer pictures a cluster make no clusters worth having.
PICTURES_PER_CLUSTER = 64
# Of so many a cluster the centres are learned.
_SAMPLE_PER_CLUSTER = 32
_DECIMALS = 4  # Of a centre's numbers.


def unit_rows(embeddings, rows):
    """Reads rows and scales each to length 1; zeros stay zeros.

    Args:
        embeddings: float array (n, d), may be memory-mapped.
        rows: int array (m,) or slice.

    Returns:
        float32 array (m, d).

    Example:

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]), slice(None)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    part = np.asarray(embeddings[rows], np.float32)
    length = np.linalg.norm(part, axis=1, keepdims=True)
    return part / np.where(length > 0, length, 1)


def one_thread():
    """Returns a context in which products of matrices take one thread.

    Those of embeddings are many and small: two threads took eight times the processor
    time of one, most of it waiting for each other. Without threadpoolctl, which comes
    with scikit-learn, nothing changes.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1)


def learn_centres(embeddings, keys, clusters, seed=0):
    """Learns the centres of k-means clusters of the embeddings' directions.

    The centres are learned from at most 32 pictures a cluster, those with the lowest
    hashes of their keys, so neither their order nor the number of cores counts.

    Args:
        embeddings: float array (n, d), may be memory-mapped.
        keys: sequence of str, the n pictures' keys.
        clusters: int ≥ 1, at most n.
        seed: int.

    Returns:
        float32 array (clusters, d), directions of length 1 without repetitions, which
        may be fewer than asked for.

    Raises:
        InputError: if scikit-learn isn't installed.
    """
    with needs(
        "corpus",
        "clusters of embeddings are learned by scikit-learn",
        ", or find duplicates by their hashes",
    ):
        from sklearn.cluster import MiniBatchKMeans
    digests = np.fromiter((_digest(key) for key in keys), np.uint64, len(keys))
    rows = np.argsort(digests, kind="stable")[: clusters * _SAMPLE_PER_CLUSTER]
    # In the order of the digests, which differs from the file's.
    sample = unit_rows(embeddings, rows)
    model = MiniBatchKMeans(
        clusters,
        batch_size=max(1024, clusters),
        max_iter=10,
        n_init=1,
        random_state=seed,
        compute_labels=False,
    )
    # Sums over several threads depend on their number.
    with one_thread():
        model.fit(sample)
    # Of length 1, or the short centres of wide clusters would be near to everything.
    centres = unit_rows(model.cluster_centers_, slice(None))
    # Equal pictures lead to centres that are equal but for rounding, of which one or
    # the other would be nearest by chance.
    return np.unique(np.round(centres, _DECIMALS), axis=0)


def nearest_clusters(embeddings, centres, nearest, block_rows):
    """Finds the clusters whose centres are nearest to each embedding.

    Args:
        embeddings: float array (n, d), may be memory-mapped.
        centres: float32 array (clusters, d).
        nearest: int, how many.
        block_rows: int, how many rows are read at once.

    Returns:
        uint16 array (n, nearest), or uint32 where there are more than 65,536
        clusters; each row ascending.

    Example:

    >>> centres = np.float32([[1, 0], [0, 1], [-1, 0]])
    >>> nearest_clusters(np.float32([[0.9, 0.1]]), centres, 2, 100).tolist()
    [[0, 1]]
    """
    dtype = np.uint16 if len(centres) <= 1 << 16 else np.uint32
    found = np.empty((len(embeddings), nearest), dtype)
    lengths = (centres**2).sum(1)
    for start in range(0, len(embeddings), block_rows):
        rows = slice(start, start + block_rows)
        distances = lengths - 2 * unit_rows(embeddings, rows) @ centres.T
        order = np.argpartition(distances, nearest - 1, axis=1)[:, :nearest]
        found[rows] = np.sort(order, axis=1)
    return found


def _digest(key):
    content = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(content.digest(), "little")

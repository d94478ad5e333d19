"""Pictures with their embeddings and the clusters that these are in."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PlacedEmbeddings:
    """Pictures with their embeddings and clusters.

    Attributes:
        embeddings: float array (n, d), may be memory-mapped.
        rows: int64 array (m,), the pictures' rows in it.
        clusters: unsigned array (m, nearest), each picture's clusters, ascending.
    """

    embeddings: np.ndarray
    rows: np.ndarray
    clusters: np.ndarray

    @classmethod
    def joined(cls, parts):
        """Returns parts of the same embeddings, a list, as one."""
        return cls(
            parts[0].embeddings,
            np.concatenate([own.rows for own in parts]),
            np.concatenate([own.clusters for own in parts]),
        )

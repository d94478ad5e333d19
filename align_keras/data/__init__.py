"""Input pipelines from image-caption pairs to batches.

`align_keras.corpus` builds corpora from raw sources, and `align_keras.datasets` opens
finished corpora and benchmarks.
"""

from align_keras.data.batches import batch_ids, training_batches
from align_keras.data.labeled_batches import (
    evaluation_batches,
    labeled_batches,
    unreadable_rows,
)
from align_keras.data.stored_pairs import (
    RetrievalSet,
    check_batch_size,
    read_retrieval_set,
)

__all__ = [
    "RetrievalSet",
    "batch_ids",
    "evaluation_batches",
    "labeled_batches",
    "read_retrieval_set",
    "training_batches",
    "unreadable_rows",
]

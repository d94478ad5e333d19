"""From stored pairs to batches."""

from align_keras.data.batch_ids import batch_ids
from align_keras.data.batches import training_batches
from align_keras.data.labelled_batches import (
    evaluation_batches,
    labelled_batches,
    unreadable_rows,
)
from align_keras.data.retrieval_set import RetrievalSet, read_retrieval_set
from align_keras.data.stored_pairs import check_batch_size
from align_keras.models.raw_pairs import image_text_batches

"""From stored pairs to batches."""

from align_keras.data.batches import check_batch_size, training_batches
from align_keras.data.retrieval_set import RetrievalSet, read_retrieval_set

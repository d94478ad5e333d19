"""From stored pairs to batches."""

from align_keras.data.batches import training_batches
from align_keras.data.retrieval_set import RetrievalSet
from align_keras.data.retrieval_set import read_retrieval_set

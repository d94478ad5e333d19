"""Pairs to batches of a model's inputs: for `fit`, and for runs on stored pairs.

`align_keras.datasets` stores pairs and reads them, and `align_keras.corpus` filters the
pairs of the web before they are stored.
"""

from typing import TYPE_CHECKING, Any

from align_keras.utils.lazy_names import import_name

_PUBLIC = {
    "RetrievalSet": "align_keras.data.stored_pairs",
    "TeacherEmbeddings": "align_keras.data.teacher_embeddings",
    "batch_ids": "align_keras.data.batches",
    "evaluation_batches": "align_keras.data.labeled_image_batches",
    "image_text_batches": "align_keras.data.pair_batches",
    "labeled_batches": "align_keras.data.labeled_image_batches",
    "read_retrieval_set": "align_keras.data.stored_pairs",
    "training_batches": "align_keras.data.batches",
    "unreadable_rows": "align_keras.data.labeled_image_batches",
}
__all__ = sorted(_PUBLIC)


if TYPE_CHECKING:
    from align_keras.data.batches import batch_ids as batch_ids
    from align_keras.data.batches import training_batches as training_batches
    from align_keras.data.labeled_image_batches import (
        evaluation_batches as evaluation_batches,
    )
    from align_keras.data.labeled_image_batches import (
        labeled_batches as labeled_batches,
    )
    from align_keras.data.labeled_image_batches import (
        unreadable_rows as unreadable_rows,
    )
    from align_keras.data.pair_batches import image_text_batches as image_text_batches
    from align_keras.data.stored_pairs import RetrievalSet as RetrievalSet
    from align_keras.data.stored_pairs import read_retrieval_set as read_retrieval_set
    from align_keras.data.teacher_embeddings import (
        TeacherEmbeddings as TeacherEmbeddings,
    )
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)

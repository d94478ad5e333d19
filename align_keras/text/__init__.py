"""Vocabulary learning and the WordPiece tokenizer as graph operations."""

from typing import TYPE_CHECKING, Any

from align_keras.text.vocabulary import (
    NORMALIZATIONS,
    SPECIAL_TOKENS,
    learn_vocabulary,
    load_vocabulary,
    save_vocabulary,
    vocabulary_fingerprint,
)
from align_keras.utils.lazy_names import import_name

# The tokenizer imports TensorFlow.
_PUBLIC = {"WordPieceTokenizer": "align_keras.text.wordpiece_tokenizer"}

__all__ = [
    "WordPieceTokenizer",
    "learn_vocabulary",
    "load_vocabulary",
    "save_vocabulary",
    "vocabulary_fingerprint",
]


if TYPE_CHECKING:
    from align_keras.text.wordpiece_tokenizer import (
        WordPieceTokenizer as WordPieceTokenizer,
    )
else:

    def __getattr__(name: str) -> Any:
        return import_name(__name__, _PUBLIC, name)

"""Vocabulary learning and the WordPiece tokenizer as graph operations."""

from typing import Any

from align_keras.text.vocabulary import (
    NORMALIZATIONS,
    SPECIAL_TOKENS,
    learn_vocabulary,
    load_vocabulary,
    save_vocabulary,
    vocabulary_fingerprint,
)

__all__ = [
    "WordPieceTokenizer",
    "learn_vocabulary",
    "load_vocabulary",
    "save_vocabulary",
    "vocabulary_fingerprint",
]


def __getattr__(name: str) -> Any:
    # The tokenizer is imported on first use, because it imports TensorFlow.
    if name == "WordPieceTokenizer":
        from align_keras.text.wordpiece_tokenizer import WordPieceTokenizer

        return WordPieceTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

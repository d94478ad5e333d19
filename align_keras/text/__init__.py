"""Vocabulary learning, and the WordPiece tokenizer as graph operations."""

from align_keras.text.vocabulary import NORMALIZATIONS
from align_keras.text.vocabulary import SPECIAL_TOKENS
from align_keras.text.vocabulary import learn_vocabulary
from align_keras.text.vocabulary import load_vocabulary
from align_keras.text.vocabulary import save_vocabulary


def __getattr__(name):
    # The tokenizer imports TensorFlow; the vocabulary must not.
    if name == "WordPieceTokenizer":
        from align_keras.text.wordpiece_tokenizer import WordPieceTokenizer

        return WordPieceTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

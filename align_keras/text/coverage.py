"""How well a vocabulary fits captions. Without TensorFlow."""

from align_keras.text.vocabulary import MAX_CHARACTERS_PER_WORD, is_uncased


class Coverage:
    """Counts words, tokens and unknown words.

    Args:
        vocabulary: list of str.
        normalization: str, the one that it was learned with.

    Example:

    >>> from align_keras.text.vocabulary import SPECIAL_TOKENS
    >>> coverage = Coverage([*SPECIAL_TOKENS, "red", "##der", "car"], "bert_uncased")
    >>> coverage.count(["Red car", "redder bus"])
    {'captions': 2, 'words': 4, 'tokens_per_word': 1.25, 'coverage': 0.75}
    """

    def __init__(self, vocabulary: list[str], normalization: str):
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        ids = {token: number for number, token in enumerate(vocabulary)}
        model = WordPiece(
            ids,
            unk_token="[UNK]",
            max_input_chars_per_word=MAX_CHARACTERS_PER_WORD,
        )
        self._tokenizer = Tokenizer(model)
        lowercase = is_uncased(normalization)
        self._tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()
        self._unknown = ids["[UNK]"]

    def count(self, captions: list[str]) -> dict:
        """Counts over captions.

        Args:
            captions: list of str.

        Returns:
            dict: `captions`, `words`, `tokens_per_word` and `coverage`, the share of
            words that the vocabulary knows; both 0 without words.
        """
        words = tokens = unknown = 0
        for encoding in self._tokenizer.encode_batch(captions):
            words += len(set(encoding.word_ids))
            tokens += len(encoding.ids)
            unknown += encoding.ids.count(self._unknown)
        return {
            "captions": len(captions),
            "words": words,
            "tokens_per_word": round(tokens / max(words, 1), 4),
            "coverage": round((words - unknown) / words, 6) if words else 0.0,
        }

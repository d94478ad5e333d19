"""Learning, storing, loading and checking of WordPiece vocabularies.

The module doesn't import TensorFlow.
"""

import collections
import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence

from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_regular

# File name of the vocabulary of a run, a preset or an export, with one token per line.
VOCABULARY_FILE = "vocabulary.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NORMALIZATIONS = ("bert_uncased", "bert_cased")

# Limit of BERT. Longer words are unknown even if the vocabulary contains them.
MAX_CHARACTERS_PER_WORD = 100
# Limit of tensorflow_text for a token without "##".
MAX_TOKEN_BYTES = 256

# Minimum limit of the number of single characters. It is the default of the Hugging
# Face BERT trainer. Words with rarer characters are unknown. The limit increases with
# the size of the vocabulary, because larger vocabularies support more scripts.
_MIN_ALPHABET_LIMIT = 1000
_CAPTIONS_PER_BATCH = 256
_COPIES_PER_BATCH = 1000


def learn_vocabulary(
    captions: Iterable[str],
    size: int,
    *,
    min_frequency: int = 2,
    normalization: str = "bert_uncased",
) -> list[str]:
    """Learns a WordPiece vocabulary with the trainer of Hugging Face tokenizers.

    The result is deterministic. It doesn't depend on the order of the captions or on
    the process, in contrast to that of the Hugging Face trainer alone.

    Args:
        captions: texts, which are read once.
        size: maximum number of tokens. The result has fewer tokens if
            the captions don't have enough frequent pairs of tokens.
        min_frequency: minimum number of occurrences of a pair of
            adjacent tokens that is merged to one token.
        normalization: `"bert_uncased"` or `"bert_cased"`. The tokenizer must use
            the same normalization, so store it with the vocabulary.

    Returns:
        list of str: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` and `[MASK]`, followed by the
        single characters and by the longer tokens, most frequent first.

    Raises:
        InputError: if an argument has a wrong type or value, or if the captions have no
            words.

    References:
        Jia et al. 2021, section 4.1 (WordPiece learned on the training captions).

    Example:
    >>> learn_vocabulary(["red", "red", "reed"], 20)[5:]
    ['d', 'e', 'r', '##d', '##e', 're', 'red']
    """
    if isinstance(captions, (str, bytes)):
        raise InputError(
            "captions must be a list of str. Received: a single "
            f"{type(captions).__name__}. Pass a list that contains it."
        )
    least, remedy = 1 + len(SPECIAL_TOKENS), "Usual sizes are 4000 to 100000."
    check_number("size", size, least, math.inf, True, remedy)
    remedy = "The usual value is 2."
    check_number("min_frequency", min_frequency, 1, math.inf, True, remedy)
    check_choice("normalization", normalization, NORMALIZATIONS)
    word_counts = _count_words(captions, normalization)
    alphabet = _choose_alphabet(word_counts, size)
    vocabulary = _train(word_counts, alphabet, size, min_frequency)
    return [*SPECIAL_TOKENS, *alphabet, *vocabulary]


def save_vocabulary(vocabulary: Sequence[str], path: str | os.PathLike) -> None:
    """Writes a vocabulary in the format of `vocab.txt`.

    The file has one token per line in the order of the ids.

    Raises:
        InputError: if a special token is missing or a token is repeated.

    Example:
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "vocabulary.txt")
    >>> save_vocabulary([*SPECIAL_TOKENS, "red"], path)
    >>> load_vocabulary(path)[-1]
    'red'
    """
    check_vocabulary(vocabulary, "vocabulary")
    with atomic_write(path) as file:
        file.writelines(f"{token}\n" for token in vocabulary)


def vocabulary_fingerprint(vocabulary: Sequence[str]) -> str:
    """Returns a hexadecimal fingerprint of the tokens and their order.

    Example:
    >>> vocabulary_fingerprint(["a", "b"]) == vocabulary_fingerprint(["b", "a"])
    False
    """
    content = "\n".join(vocabulary).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def load_vocabulary(path: str | os.PathLike) -> list[str]:
    """Reads a vocabulary in the format of `vocab.txt`, which Hugging Face also uses.

    Returns:
        list of str, the tokens in the order of their ids.

    Raises:
        OSError: if the file can't be read.
        InputError: if the file is not UTF-8, a line is blank, a token is repeated or a
            special token is missing.

    Example:
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "vocab.txt")
    >>> save_vocabulary([*SPECIAL_TOKENS, "red"], path)
    >>> load_vocabulary(path)[-2:]
    ['[MASK]', 'red']
    """
    try:
        text = read_regular(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"path must be a file of UTF-8 text. Received: path={str(path)!r}, whose "
            f"byte {error.start} is invalid."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # `splitlines` would also split at characters such as U+2028, which tokens may
    # contain.
    vocabulary = text.removesuffix("\n").split("\n")
    check_vocabulary(vocabulary, str(path))
    return vocabulary


def is_uncased(normalization: str) -> bool:
    """Returns True if a normalization converts to lower case and removes accents."""
    return normalization == "bert_uncased"


def check_vocabulary(vocabulary: Sequence[str], source: str) -> None:
    """Checks that a vocabulary has unique tokens and all special tokens.

    Args:
        vocabulary: sequence of str.
        source: argument or file for messages.

    Raises:
        InputError: if a token is blank, repeated or missing.
    """
    ids: dict[str, int] = {}
    for index, token in enumerate(vocabulary):
        if not token.strip(" \t\r") or "\n" in token or token in ids:
            raise InputError(
                f"{source} must contain one token per line, each token once. Received: "
                f"{token!r:.80} at line {index + 1}, which is blank or repeated. Write "
                "another token there, such as [unused1]."
            )
        ids[token] = index
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"{source} must contain {' '.join(SPECIAL_TOKENS)}. Received: {len(ids)} "
            f"tokens without {' '.join(missing)}. Create it with learn_vocabulary."
        )


def _count_words(
    captions: Iterable[str], normalization: str
) -> collections.Counter[str]:
    """Counts the normalized words of captions."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer = BertNormalizer(lowercase=is_uncased(normalization))
    pre_tokenizer = BertPreTokenizer()
    counts: collections.Counter[str] = collections.Counter()
    num_captions = 0
    # The Rust library raises an error for lone surrogates, which are not UTF-8.
    captions = (text.encode("utf-8", "ignore").decode("utf-8") for text in captions)
    while batch := list(itertools.islice(captions, _CAPTIONS_PER_BATCH)):
        num_captions += len(batch)
        # One call per batch is several times faster than one call per caption.
        text = normalizer.normalize_str("\n".join(batch))
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    for word in [word for word in counts if len(word) > MAX_CHARACTERS_PER_WORD]:
        del counts[word]
    if not counts:
        raise InputError(
            f"captions must contain at least one word. Received: {num_captions} "
            "captions without words. Pass the captions of the training pairs."
        )
    return counts


def _choose_alphabet(word_counts: collections.Counter[str], size: int) -> list[str]:
    """Returns the tokens of single characters, first without and then with "##"."""
    frequency: collections.Counter[str] = collections.Counter()
    continuing: set[str] = set()
    for word, count in word_counts.items():
        for character in word:
            frequency[character] += count
        continuing.update(word[1:])
    free_ids = size - len(SPECIAL_TOKENS)
    limit = max(_MIN_ALPHABET_LIMIT, size // 10)
    characters = []
    # Equally frequent characters are sorted by code point, which makes the result
    # deterministic.
    for character in sorted(frequency, key=lambda c: (-frequency[c], c))[:limit]:
        free_ids -= 1 + (character in continuing)
        if free_ids < 0:
            break
        characters.append(character)
    characters.sort()
    return characters + [f"##{c}" for c in characters if c in continuing]


def _train(
    word_counts: collections.Counter[str],
    alphabet: list[str],
    size: int,
    min_frequency: int,
) -> list[str]:
    """Returns the tokens with more than one character in the order of their ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import WordPieceTrainer

    characters = [token for token in alphabet if len(token) == 1]
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        show_progress=False,
        # The trainer breaks ties between pairs by the ids of their parts. It would
        # number continuing characters in the random order of a hash map. Special tokens
        # have the first ids in a fixed order, so the alphabet is passed as special
        # tokens.
        special_tokens=[*SPECIAL_TOKENS, *alphabet],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
    )
    tokenizer.train_from_iterator(_copies(word_counts), trainer)
    ids = tokenizer.get_vocab()
    short_tokens = {*SPECIAL_TOKENS, *alphabet}
    return [
        token
        for token in sorted(ids, key=ids.__getitem__)
        if token not in short_tokens
        and len(token.removeprefix("##").encode()) <= MAX_TOKEN_BYTES
    ]


def _copies(word_counts: collections.Counter[str]) -> Iterator[str]:
    """Yields strings that repeat each word according to its count."""
    for word in sorted(word_counts):
        batches, remainder = divmod(word_counts[word], _COPIES_PER_BATCH)
        yield from itertools.repeat(f"{word} " * _COPIES_PER_BATCH, batches)
        yield f"{word} " * remainder


# === Coverage of captions by a vocabulary ===


class Coverage:
    """Counter of words, tokens and unknown words of captions.

    Args:
        vocabulary: list of str.
        normalization: `"bert_uncased"` or `"bert_cased"`.

    Example:
    >>> from align_keras.text.vocabulary import SPECIAL_TOKENS
    >>> coverage = Coverage([*SPECIAL_TOKENS, "red", "##der", "car"], "bert_uncased")
    >>> coverage.count(["Red car", "redder bus"])
    {'captions': 2, 'words': 4, 'tokens_per_word': 1.25, 'coverage': 0.75}
    """

    def __init__(self, vocabulary: list[str], normalization: str) -> None:
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
        """Returns statistics of captions.

        Returns:
            dict with the number of `captions` and `words`, the mean number of
            `tokens_per_word`, and `coverage`, the fraction of words without `[UNK]`.
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

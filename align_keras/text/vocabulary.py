"""WordPiece vocabularies: learned, stored, read and checked. Without TensorFlow."""

import collections
import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence

from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_regular

# Vocabulary of a run, a preset or an export, with one token a line.
VOCABULARY_FILE = "vocabulary.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NORMALIZATIONS = ("bert_uncased", "bert_cased")

# BERT's limit: longer words are unknown whatever the vocabulary holds.
MAX_CHARACTERS_PER_WORD = 100
# tensorflow_text's limit for a token, without "##".
MAX_TOKEN_BYTES = 256

# As Hugging Face's BERT trainer: rarer characters make their words unknown. Larger
# vocabularies are for more scripts.
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
    """Learns a WordPiece vocabulary, from the captions alone: neither their order nor
    the process counts, as they do in Hugging Face's trainer, which does the work.

    Args:
        captions: read once.
        size: at least 6, the largest number of tokens. Fewer come back where the
            captions have no more pairs of tokens that are frequent enough.
        min_frequency: at least 1, how often a pair of tokens must stand side by side to
            become one.
        normalization: `"bert_uncased"` or `"bert_cased"`. Store it with the vocabulary:
            the tokenizer needs the same.

    Returns:
        `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, then the single characters, then
        longer tokens from the most frequent on.

    Raises:
        InputError: if an argument isn't as above, or the captions have no words.

    References:
        Jia et al. 2021, section 4.1 (WordPiece learned on the training captions).

    Example:
    >>> learn_vocabulary(["red", "red", "reed"], 20)[5:]
    ['d', 'e', 'r', '##d', '##e', 're', 'red']
    """
    if isinstance(captions, (str, bytes)):
        raise InputError(
            f"captions must be a list of str, received one {type(captions).__name__}; "
            "put it into a list."
        )
    least, remedy = 1 + len(SPECIAL_TOKENS), "usual sizes are 4000 to 100000"
    check_number("size", size, least, math.inf, True, remedy)
    remedy = "the usual one is 2"
    check_number("min_frequency", min_frequency, 1, math.inf, True, remedy)
    check_normalization(normalization)
    word_counts = _count_words(captions, normalization)
    alphabet = _choose_alphabet(word_counts, size)
    vocabulary = _train(word_counts, alphabet, size, min_frequency)
    return [*SPECIAL_TOKENS, *alphabet, *vocabulary]


def save_vocabulary(vocabulary: Sequence[str], path: str | os.PathLike) -> None:
    """Writes a vocabulary as `vocab.txt`: one token a line, in the order of the ids.
    Raises `InputError` unless it has the special tokens and no duplicates.

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
    """Reads the tokens of `vocab.txt`, ours or Hugging Face's, in the order of their
    ids. Raises `InputError` for blank lines, duplicates, and where special tokens lack.
    """
    try:
        text = read_regular(path).decode("utf-8")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise InputError(
            f"path must be a readable vocabulary file, received {str(path)!r}: "
            f"{error.strerror}; pass the vocabulary.txt or vocab.txt of a model."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"path must be a file of UTF-8 text, received {str(path)!r} with another "
            f"byte at {error.start}; store the vocabulary as UTF-8."
        ) from error
    # Not splitlines: tokens may hold U+2028 and the like.
    vocabulary = text.removesuffix("\n").split("\n")
    check_vocabulary(vocabulary, str(path))
    return vocabulary


def is_uncased(normalization: str) -> bool:
    """Whether a normalization lowers and strips accents."""
    return normalization == "bert_uncased"


def check_normalization(normalization: str) -> None:
    """Raises unless `normalization` is one of `NORMALIZATIONS`."""
    remedy = "name the one that the vocabulary was learned with"
    check_choice("normalization", normalization, NORMALIZATIONS, remedy)


def check_vocabulary(vocabulary: Sequence[str], source: str) -> None:
    """Raises unless a vocabulary can be tokenized with; names `source` and fault."""
    ids: dict[str, int] = {}
    for index, token in enumerate(vocabulary):
        if not isinstance(token, str) or not token.strip(" \t\r") or "\n" in token:
            raise InputError(
                f"{source} must hold one token a line, none blank, received {token!r} "
                f"at line {index + 1}; write a token there, such as [unused1]."
            )
        if token in ids:
            raise InputError(
                f"{source} must hold each token once, received {token!r} at lines "
                f"{ids[token] + 1} and {index + 1}; rename one of them."
            )
        ids[token] = index
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"{source} must hold {' '.join(SPECIAL_TOKENS)}, received {len(ids)} "
            f"tokens without {' '.join(missing)}; make it with learn_vocabulary, or "
            "add them."
        )


def _checked(captions):
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise InputError(
                f"captions must be str, received {type(caption).__name__} at index "
                f"{index}; decode bytes, and leave out pairs without a caption."
            )
        # What UTF-8 can't express (a lone surrogate) Rust won't take.
        yield caption.encode("utf-8", "ignore").decode("utf-8")


def _count_words(captions, normalization):
    """A Counter of the captions' normalized words; raises if there are none."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer = BertNormalizer(lowercase=is_uncased(normalization))
    pre_tokenizer = BertPreTokenizer()
    counts = collections.Counter()
    read = 0
    captions = _checked(captions)
    while batch := list(itertools.islice(captions, _CAPTIONS_PER_BATCH)):
        read += len(batch)
        # One call a batch is several times faster than one a caption.
        text = normalizer.normalize_str("\n".join(batch))
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    for word in [word for word in counts if len(word) > MAX_CHARACTERS_PER_WORD]:
        del counts[word]
    if not counts:
        raise InputError(
            f"captions must hold at least one word, received {read} captions without "
            "any; pass the captions of the training pairs."
        )
    return counts


def _choose_alphabet(word_counts, size):
    """The single-character tokens: initial ones, then continuing ones."""
    frequency = collections.Counter()
    continuing = set()
    for word, count in word_counts.items():
        for character in word:
            frequency[character] += count
        continuing.update(word[1:])
    room = size - len(SPECIAL_TOKENS)
    limit = max(_MIN_ALPHABET_LIMIT, size // 10)
    chosen = []
    # The most frequent first, among equals by code point: nothing is left to chance.
    for character in sorted(frequency, key=lambda c: (-frequency[c], c))[:limit]:
        room -= 1 + (character in continuing)
        if room < 0:
            break
        chosen.append(character)
    chosen.sort()
    return chosen + [f"##{c}" for c in chosen if c in continuing]


def _train(word_counts, alphabet, size, min_frequency):
    """The tokens longer than a character, in the order of their ids."""
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
        # The trainer breaks ties between pairs by the ids of their parts, and numbers
        # continuing characters in the random order of a hash map. Special tokens are
        # numbered first and in order, so that here is where order comes from.
        special_tokens=[*SPECIAL_TOKENS, *alphabet],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
    )
    tokenizer.train_from_iterator(_copies(word_counts), trainer)
    ids = tokenizer.get_vocab()
    known = {*SPECIAL_TOKENS, *alphabet}
    return [
        token
        for token in sorted(ids, key=ids.get)
        if token not in known
        and len(token.removeprefix("##").encode()) <= MAX_TOKEN_BYTES
    ]


def _copies(word_counts):
    """Yields each word as often as it was counted, some to a string."""
    for word in sorted(word_counts):
        whole, rest = divmod(word_counts[word], _COPIES_PER_BATCH)
        yield from itertools.repeat(f"{word} " * _COPIES_PER_BATCH, whole)
        yield f"{word} " * rest


# === How well a vocabulary fits captions ===


class Coverage:
    """Counts words, tokens and unknown words of captions, by a vocabulary.

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
        """Counts over captions; `coverage` is the share of words that are known."""
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

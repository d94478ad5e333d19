"""Learning, storing and loading of vocabularies, and their coverage of captions."""

import random
import subprocess
import sys

import pytest
from tokenizers import BertWordPieceTokenizer

from align_keras.text.vocabulary import (
    SPECIAL_TOKENS,
    Coverage,
    learn_vocabulary,
    load_vocabulary,
    save_vocabulary,
)
from align_keras.utils.errors import InputError

SYLLABLES = ["ka", "to", "mi", "re", "su", "no", "é", "чи", "漢", "b", "ß"]


def made_up_captions(count, seed=0):
    """Returns captions with many equally frequent pairs of tokens."""
    source = random.Random(seed)

    def word():
        return "".join(source.choices(SYLLABLES, k=source.randint(1, 4)))

    return [" ".join(word() for _ in range(5)) for _ in range(count)]


def test_frequent_pairs_of_a_small_example_become_tokens():
    # The pair "lo" occurs 4 times, "low" 4 times, and "##er" 3 times.
    captions = ["low low", "lower low", "newer wider"]
    vocabulary = learn_vocabulary(captions, 25, min_frequency=3)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = ["d", "e", "i", "l", "n", "o", "r", "w"]
    continuing = ["##d", "##e", "##i", "##o", "##r", "##w"]
    assert vocabulary[5:19] == characters + continuing
    assert sorted(vocabulary[19:]) == ["##er", "lo", "low"]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_captions():
    captions = made_up_captions(500)
    first = learn_vocabulary(captions, 400)
    random.Random(0).shuffle(captions)
    assert learn_vocabulary(captions, 400) == first


@pytest.mark.ci
def test_another_process_learns_the_same_vocabulary():
    # The Hugging Face trainer alone gives a different vocabulary in each process.
    script = (
        "import sys\n"
        "from align_keras.text.vocabulary import learn_vocabulary\n"
        "captions = sys.stdin.read().split('\\n')\n"
        "sys.stdout.write('\\n'.join(learn_vocabulary(captions, 400)))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    captions = made_up_captions(2000)
    result = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", script],
        input="\n".join(captions),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert result.stdout.split("\n") == learn_vocabulary(captions, 400)


def test_captions_are_read_once():
    captions = made_up_captions(50)
    assert learn_vocabulary(iter(captions), 200) == learn_vocabulary(captions, 200)


@pytest.mark.parametrize("size", [6, 40, 100_000])
def test_the_vocabulary_is_never_larger_than_its_size(size):
    vocabulary = learn_vocabulary(made_up_captions(300), size)
    assert len(vocabulary) <= size
    assert len(set(vocabulary)) == len(vocabulary)


def test_the_vocabulary_is_smaller_without_further_frequent_pairs():
    assert learn_vocabulary(["ab ab"], 1000)[5:] == ["a", "b", "##b", "ab"]


def test_rare_characters_are_dropped_from_a_small_vocabulary():
    captions = ["aa aa aa", "bb bb", "c"]
    assert learn_vocabulary(captions, 9)[5:] == ["a", "b", "##a", "##b"]


def test_the_limit_of_characters_grows_with_the_size():
    ideographs = " ".join(map(chr, range(0x4E00, 0x4E00 + 1500)))
    assert len(learn_vocabulary([ideographs], 5000)) == 5 + 1000
    assert len(learn_vocabulary([ideographs], 20_000)) == 5 + 1500
    # All characters are equally frequent. The selection doesn't depend on the order.
    backwards = learn_vocabulary([ideographs[::-1]], 5000)
    assert backwards == learn_vocabulary([ideographs], 5000)


def test_pairs_below_the_minimum_frequency_are_not_merged():
    assert "ab" not in learn_vocabulary(["ab ab"], 100, min_frequency=3)


def test_captions_are_normalized():
    captions = ["Été Été"]
    assert "ete" in learn_vocabulary(captions, 50)
    assert "Été" in learn_vocabulary(captions, 50, normalization="bert_cased")


def test_words_above_the_length_limit_are_ignored():
    captions = ["a" * 101, "b" * 100, "b" * 100]
    vocabulary = learn_vocabulary(captions, 500)
    assert "a" not in vocabulary
    assert "b" * 100 in vocabulary


def test_tokens_do_not_exceed_the_limit_of_the_tokenizer():
    word = "𐌰" * 100  # 400 bytes
    longest = max(len(token) for token in learn_vocabulary([word, word], 500))
    assert 1 < longest <= 64 + len("##")


def test_special_tokens_in_captions_are_learned_as_text():
    vocabulary = learn_vocabulary(["[MASK] [MASK]"] * 2, 100)
    assert vocabulary.count("[MASK]") == 1
    assert "mask" in vocabulary


@pytest.mark.ci
def test_captions_have_as_many_tokens_as_with_the_hugging_face_trainer(
    tmp_path, stamp_captions
):
    captions = stamp_captions[::4]
    reference = BertWordPieceTokenizer()
    reference.train_from_iterator(captions, 4000, min_frequency=2, show_progress=False)
    path = tmp_path / "vocab.txt"
    save_vocabulary(learn_vocabulary(captions, 4000), path)
    tokenizer = BertWordPieceTokenizer(str(path))

    def count_tokens(tokenizer):
        encodings = tokenizer.encode_batch(captions, add_special_tokens=False)
        return sum(len(encoding.ids) for encoding in encodings)

    expected = pytest.approx(count_tokens(reference), rel=0.005)
    assert count_tokens(tokenizer) == expected


def test_a_saved_vocabulary_is_loaded_unchanged(tmp_path):
    path = tmp_path / "new" / "vocabulary.txt"
    vocabulary = [*SPECIAL_TOKENS, "a", "##\u2028", "\x85", "漢"]
    save_vocabulary(vocabulary, path)
    assert load_vocabulary(path) == vocabulary
    assert path.read_bytes().startswith(b"[PAD]\n[UNK]\n")


def test_files_of_other_programs_are_loaded(tmp_path):
    # Special tokens may be anywhere, lines may end in \r\n, and the last line end may
    # be missing.
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\r\na\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]")
    assert load_vocabulary(path) == ["[PAD]", "a", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


SPECIAL_LINES = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"without \[MASK\]"),
        (SPECIAL_LINES + "a\nb\na\n", "'a' at line 8"),
        (SPECIAL_LINES + "a\n\nb\n", "'' at line 7"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_invalid_files_are_refused(tmp_path, content, message):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        load_vocabulary(path)
    assert "vocabulary.txt" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        (["", "  ", "\u200b", "x" * 101], {}, "captions"),
        ("a red bicycle", {}, "captions"),
        (["a"], {"size": 5}, "size"),
        (["a"], {"min_frequency": 0}, "min_frequency"),
        (["a"], {"normalization": "nfkc"}, "normalization"),
    ],
)
def test_invalid_arguments_are_refused(captions, options, message):
    with pytest.raises(InputError, match=message) as error:
        learn_vocabulary(captions, **{"size": 100, **options})
    assert "\n" not in str(error.value)


def test_an_invalid_vocabulary_does_not_replace_a_file(tmp_path):
    path = tmp_path / "vocabulary.txt"
    save_vocabulary([*SPECIAL_TOKENS, "a"], path)
    for vocabulary in ([*SPECIAL_TOKENS, "a\nb"], ["a"]):
        with pytest.raises(InputError):
            save_vocabulary(vocabulary, path)
    assert load_vocabulary(path)[-1] == "a"
    assert [file.name for file in tmp_path.iterdir()] == ["vocabulary.txt"]


THREE_LANGUAGES = [
    "A red bicycle leans on a wall",
    "Ein rotes Fahrrad lehnt an der Wand",
    "Červené kolo se opírá o zeď",
] * 3


def test_coverage_agrees_with_the_hugging_face_tokenizer(tmp_path):
    vocabulary = learn_vocabulary(THREE_LANGUAGES[:2], 60, min_frequency=1)
    save_vocabulary(vocabulary, tmp_path / "vocabulary.txt")
    oracle = BertWordPieceTokenizer(str(tmp_path / "vocabulary.txt"))
    encodings = oracle.encode_batch(THREE_LANGUAGES, add_special_tokens=False)
    words = sum(len(set(encoding.word_ids)) for encoding in encodings)
    tokens = sum(len(encoding.ids) for encoding in encodings)
    unknown = sum(encoding.tokens.count("[UNK]") for encoding in encodings)
    assert unknown  # The vocabulary lacks some letters of the Czech caption.
    assert Coverage(vocabulary, "bert_uncased").count(THREE_LANGUAGES) == {
        "captions": 9,
        "words": words,
        "tokens_per_word": round(tokens / words, 4),
        "coverage": round(1 - unknown / words, 6),
    }


def test_the_coverage_of_no_captions_is_zero():
    vocabulary = learn_vocabulary(THREE_LANGUAGES, 60)
    counts = Coverage(vocabulary, "bert_cased").count([])
    assert counts["words"] == counts["coverage"] == 0

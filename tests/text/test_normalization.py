"""BERT normalization of captions in comparison with Hugging Face tokenizers."""

import subprocess
import sys

import pytest
import tensorflow as tf
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from align_keras.text.normalization import mark_special_token, split_words
from align_keras.text.vocabulary import NORMALIZATIONS, SPECIAL_TOKENS
from tests.helpers.hard_captions import NEW_LETTERS
from tests.helpers.tensorflow_text_marks import needs_tensorflow_text

# The normalization of `"bert_uncased"` needs it.
pytestmark = needs_tensorflow_text


def words(captions, normalization):
    rows = split_words(tf.constant(captions), normalization).to_list()
    return [[word.decode() for word in row if word] for row in rows]


def hugging_face_words(captions, normalization):
    normalizer = BertNormalizer(lowercase=normalization == "bert_uncased")
    pre_tokenizer = BertPreTokenizer()
    return [
        [
            word
            for word, _ in pre_tokenizer.pre_tokenize_str(
                normalizer.normalize_str(caption)
            )
        ]
        for caption in captions
    ]


def check_code_points(points, normalization):
    captions = [f"a{chr(point)}B" for point in points]
    actual = words(captions, normalization)
    expected = hugging_face_words(captions, normalization)
    different_points = {
        point
        for point, our_words, hugging_face in zip(points, actual, expected, strict=True)
        if our_words != hugging_face
    }
    assert different_points == NEW_LETTERS[normalization] & set(points)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_code_points_of_common_scripts_match_hugging_face(normalization):
    points = [*range(0xD800), *range(0xE000, 0x20000, 3), *range(0x1F000, 0x1FB00)]
    check_code_points(points[::5], normalization)


@pytest.mark.release
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_all_code_points_match_hugging_face(normalization):
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    check_code_points(points, normalization)


@pytest.mark.parametrize(
    ("caption", "uncased", "cased"),
    [
        ("Crème-brûlée", ["creme", "-", "brulee"], ["Crème", "-", "brûlée"]),
        # NFC and NFD spellings are equal without accents.
        ("e\u0301É", ["ee"], ["e\u0301É"]),
        ("İstanbul I ı", ["istanbul", "i", "ı"], ["İstanbul", "I", "ı"]),
        # ß, ligatures, full-width letters and fractions are not folded.
        ("Straße ﬁn Ａ½", ["straße", "ﬁn", "ａ½"], ["Straße", "ﬁn", "Ａ½"]),
        # An upper-case sigma becomes σ, also at the end of a word. A ς is kept.
        ("ΣΟΦΟΣ σοφός", ["σοφοσ", "σοφος"], ["ΣΟΦΟΣ", "σοφός"]),
        ("漢字かな漢", ["漢", "字", "かな", "漢"], ["漢", "字", "かな", "漢"]),
        ("한글", ["한글"], ["한글"]),
        ("ภาษาไทย", ["ภาษาไทย"], ["ภาษาไทย"]),
        ("Ёж й", ["еж", "и"], ["Ёж", "й"]),
        ("a...b?!", ["a", ".", ".", ".", "b", "?", "!"], None),
        ("$5+x=1^`|~", ["$", "5", "+", "x", "=", "1", "^", "`", "|", "~"], None),
        # BERT treats the ASCII dollar sign as punctuation, but not the euro sign.
        ("5€", ["5€"], None),
        ("a\u00a0b\u2003c\u3000d\te\nf\u2028g", list("abcdefg"), None),
        # Zero-width and control characters, including \x85 and \x0b, are removed.
        ("a\u200bb\u200dc\u00add\x00e\x85f\x0bg\ufeffh", ["abcdefgh"], None),
        ("👩\u200d🚀 🥺\ufe0f", ["👩🚀", "🥺"], ["👩🚀", "🥺\ufe0f"]),
        ("\ue000mask \uf8ff", ["mask"], None),
        ("", [], None),
        (" \t\u200b ", [], None),
    ],
)
def test_captions_are_split_into_normalized_words(caption, uncased, cased):
    import unicodedata

    expected = [unicodedata.normalize("NFD", word) for word in uncased]
    assert words([caption], "bert_uncased") == [expected]
    assert words([caption], "bert_cased") == [uncased if cased is None else cased]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_special_tokens_are_detected_before_characters_are_removed(normalization):
    mark = {token: mark_special_token(token, normalization) for token in SPECIAL_TOKENS}
    caption = "a[MASK]b [[SEP]] [mask] [MA\x00SK] [MA\ue000SK]"
    word = "mask" if normalization == "bert_uncased" else "MASK"
    expected = ["a", mark["[MASK]"], "b", "[", mark["[SEP]"], "]", "[", "mask", "]"]
    expected += ["[", word, "]"] * 2
    assert words([caption], normalization) == [expected]


def test_bytes_that_are_not_utf8_are_dropped():
    captions = [
        b"caf\xe9 \xff\xfe x\xe0\xa4",
        b"\xed\xa0\x80q\xf4\x90\x80\x80",
        b"\xc3",
    ]
    assert words(captions, "bert_uncased") == [["caf", "x"], ["q"], []]


@pytest.mark.release
def test_words_do_not_depend_on_the_locale():
    # ICU converts "I" to "ı" with a Turkish locale, and JÌ differs with a Lithuanian
    # locale.
    script = (
        "import tensorflow as tf\n"
        "from align_keras.text.normalization import split_words\n"
        "words = split_words(tf.constant(['TITI JÌ İ ΣΑΣ']), 'bert_uncased')\n"
        "assert words.to_list() == "
        "[[b'titi', b'ji', b'i', 'σασ'.encode()]], words.to_list()\n"
        "print(tf.strings.lower('I', encoding='utf-8').numpy().decode())\n"
    )
    result = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", script],
        env={"LC_ALL": "tr_TR.UTF-8", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr[-500:]
    # If TensorFlow ignored the locale, the test would have no effect.
    assert result.stdout.strip() == "ı"

import subprocess
import sys

import pytest
import tensorflow as tf
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from align_keras.text.normalization import mark_special_token, split_words
from align_keras.text.vocabulary import NORMALIZATIONS, SPECIAL_TOKENS
from align_keras.utils.errors import InputError
from tests.helpers.hard_captions import NEW_LETTERS


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
    ours = words(captions, normalization)
    theirs = hugging_face_words(captions, normalization)
    different = {
        point
        for point, mine, other in zip(points, ours, theirs, strict=True)
        if mine != other
    }
    assert different == NEW_LETTERS[normalization] & set(points)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_code_points_of_living_scripts(normalization):
    points = [*range(0xD800), *range(0xE000, 0x20000, 3), *range(0x1F000, 0x1FB00)]
    check_code_points(
        points[:: 1 if normalization == "bert_uncased" else 5], normalization
    )


@pytest.mark.release
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_all_code_points(normalization):
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    check_code_points(points, normalization)


@pytest.mark.parametrize(
    ("caption", "uncased", "cased"),
    [
        ("Crème-brûlée", ["creme", "-", "brulee"], ["Crème", "-", "brûlée"]),
        # NFC and NFD spellings meet when accents go.
        ("e\u0301É", ["ee"], ["e\u0301É"]),
        ("İstanbul I ı", ["istanbul", "i", "ı"], ["İstanbul", "I", "ı"]),
        # No folding: ß, ligatures, full width and fractions stay.
        ("Straße ﬁn Ａ½", ["straße", "ﬁn", "ａ½"], ["Straße", "ﬁn", "Ａ½"]),
        # Every sigma is σ, a final one too, unless written ς.
        ("ΣΟΦΟΣ σοφός", ["σοφοσ", "σοφος"], ["ΣΟΦΟΣ", "σοφός"]),
        ("漢字かな漢", ["漢", "字", "かな", "漢"], ["漢", "字", "かな", "漢"]),
        ("한글", ["한글"], ["한글"]),
        ("ภาษาไทย", ["ภาษาไทย"], ["ภาษาไทย"]),
        ("Ёж й", ["еж", "и"], ["Ёж", "й"]),
        ("a...b?!", ["a", ".", ".", ".", "b", "?", "!"], None),
        ("$5+x=1^`|~", ["$", "5", "+", "x", "=", "1", "^", "`", "|", "~"], None),
        # A dollar of ASCII is punctuation to BERT, a euro isn't.
        ("5€", ["5€"], None),
        ("a\u00a0b\u2003c\u3000d\te\nf\u2028g", list("abcdefg"), None),
        # Zero width and control characters join; \x85 and \x0b are control too.
        ("a\u200bb\u200dc\u00add\x00e\x85f\x0bg\ufeffh", ["abcdefgh"], None),
        ("👩\u200d🚀 🥺\ufe0f", ["👩🚀", "🥺"], ["👩🚀", "🥺\ufe0f"]),
        ("\ue000mask \uf8ff", ["mask"], None),
        ("", [], None),
        (" \t\u200b ", [], None),
    ],
)
def test_hand_worked_cases(caption, uncased, cased):
    import unicodedata

    expected = [unicodedata.normalize("NFD", word) for word in uncased]
    assert words([caption], "bert_uncased") == [expected]
    assert words([caption], "bert_cased") == [uncased if cased is None else cased]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_special_tokens_are_sought_in_the_raw_text(normalization):
    mark = {token: mark_special_token(token, normalization) for token in SPECIAL_TOKENS}
    caption = "a[MASK]b [[SEP]] [mask] [MA\x00SK] [MA\ue000SK]"
    plain = "mask" if normalization == "bert_uncased" else "MASK"
    expected = ["a", mark["[MASK]"], "b", "[", mark["[SEP]"], "]", "[", "mask", "]"]
    expected += ["[", plain, "]"] * 2
    assert words([caption], normalization) == [expected]


def test_bytes_that_are_not_utf8_are_dropped():
    captions = [
        b"caf\xe9 \xff\xfe x\xe0\xa4",
        b"\xed\xa0\x80q\xf4\x90\x80\x80",
        b"\xc3",
    ]
    assert words(captions, "bert_uncased") == [["caf", "x"], ["q"], []]


@pytest.mark.release
def test_the_locale_changes_nothing():
    # ICU lowers "I" to "ı" in a Turkish process, and JÌ otherwise in a Lithuanian.
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
    # Otherwise this machine's TensorFlow wouldn't test anything here.
    assert result.stdout.strip() == "ı"


def test_unknown_normalization():
    with pytest.raises(InputError, match="received 'nfkc'"):
        split_words(tf.constant(["a"]), "nfkc")

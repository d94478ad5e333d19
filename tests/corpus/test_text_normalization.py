"""Texts in one form, against what Unicode and BERT say."""

import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from align_keras.corpus.text_normalization import (
    normalize_text,
    normalize_texts,
    unigrams,
)

CASES = [
    ("a cat", "a cat"),
    (" a cat", "a cat"),
    ("a cat ", "a cat"),
    ("a  cat", "a cat"),
    ("  a\t\n cat\r\n", "a cat"),
    ("a\x00cat\x1b\x7f\x85!", "a cat !"),
    ("zero\u200bwidth \ufeffmark soft\u00adhyphen", "zerowidth mark softhyphen"),
    ("\u202eright\u202c \u2066to\u2069 left\u200f", "right to left"),
    ("no\u00a0break\u2003em\u3000wide", "no break em wide"),
    ("line\u2028separator", "line separator"),
    ("half \ud83e pair", "half pair"),
    ("private \ue000 use", "private use"),
    ("Ｆｕｌｌ ｗｉｄｔｈ ﬁsh 𝓢𝓽𝔂𝓵𝓮", "Full width fish Style"),
    ("Cafe\u0301", "Café"),
    ("Case STAYS", "Case STAYS"),
    ("Käse 🧀 奶酪 ❤️", "Käse 🧀 奶酪 ❤️"),
    ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
    ("twice &amp;amp; thrice &amp;amp;amp; ok", "twice & thrice & ok"),
    ("&#65;&#x42;&nbsp;&eacute;", "AB é"),
    (
        "AT&T R&D black&notwhite &unknown; &#0;",
        "AT&T R&D black&notwhite &unknown; \ufffd",
    ),
    ("<b>bold</b> <br/>text<IMG src='a.png'\n>!", "bold text !"),
    ("&lt;p class=x&gt;para&lt;/p&gt;", "para"),
    ("<!-- note --> <script>x = 1 < 2</script>said<!DOCTYPE html>", "said"),
    ("1 < 2 and 3 > 2, I <3 you, <- here", "1 < 2 and 3 > 2, I <3 you, <- here"),
    ("", ""),
    (" \n\u200b ", ""),
]


@pytest.mark.parametrize(("text", "normalized"), CASES)
def test_by_hand(text, normalized):
    assert normalize_text(text) == normalized


def test_many_at_once_are_as_one_by_one():
    texts = [text for text, _ in CASES]
    assert normalize_texts(texts) == [normalized for _, normalized in CASES]
    assert normalize_texts([]) == [] and normalize_texts([" "]) == [""]


# Pieces of entities and tags that come together only when others are removed.
PIECES = ["&", "amp;", "lt;", "gt;", "#60;", "<", ">", "b", "/", "!", "--", "\u200b"]
PIECES += ["＜", "＆", "；", "e", "\u0301", " ", "\n", "\x00", "\u00a0", "\ud800", "猫"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
any_text = st.text(st.characters(exclude_categories=()), max_size=12)


@hypothesis.given(texts | any_text)
def test_again_changes_nothing(text):
    normalized = normalize_text(text)
    assert normalize_text(normalized) == normalized
    assert unicodedata.is_normalized("NFKC", normalized)
    assert normalized == " ".join(normalized.split())
    categories = {unicodedata.category(letter) for letter in normalized}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@hypothesis.given(st.lists(texts | any_text, max_size=5))
def test_any_many_at_once_are_as_one_by_one(many):
    assert normalize_texts(many) == [normalize_text(own) for own in many]


def test_case_folding_and_characters_of_several_scripts():
    assert unigrams("STRASSE Straße ΣΊΣΥΦΟΣ") == ["strasse", "strasse", "σίσυφοσ"]
    assert unigrams("don't well-known alt_img a1b2") == (
        ["don", "t", "well", "known", "alt_img", "a1b2"]
    )
    assert unigrams("熊猫abc 東京タワー") == ["熊", "猫", "abc", "東", "京", "タワー"]
    assert unigrams("हिन्दी में") == ["हिन्दी", "में"]
    assert unigrams("❤️ 🧀 1️⃣ -- ...") == ["1"]
    assert unigrams("") == unigrams("\n \ud800") == []


def test_ideographs_are_berts():
    tokenizers = pytest.importorskip("tokenizers")
    split = tokenizers.normalizers.BertNormalizer(
        clean_text=False,
        handle_chinese_chars=True,
        strip_accents=False,
        lowercase=False,
    )
    letters = [chr(own) for own in range(0x3000, 0x30000, 7)]
    letters = [own for own in letters if unicodedata.category(own) == "Lo"]
    # Where BERT begins at 2B820, `tokenizers` has 2B920, a slip.
    letters = [own for own in letters if not 0x2B820 <= ord(own) < 0x2B920]
    for letter in letters:
        alone = split.normalize_str(f"a{letter}a") == f"a {letter} a"
        word = letter.casefold()
        expected = ["a", word, "a"] if alone else [f"a{word}a"]
        assert unigrams(f"a{letter}a") == expected, hex(ord(letter))

"""Tests of normalization, words and personal data of captions."""

import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from align_keras.corpus.filters.text_hashes import text_features
from align_keras.corpus.filters.texts import (
    find_personal_data,
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


def test_texts_are_normalized():
    texts = [text for text, _ in CASES]
    expected = [normalized for _, normalized in CASES]
    assert [normalize_text(text) for text in texts] == expected
    assert normalize_texts(texts) == expected
    assert normalize_texts([]) == [] and normalize_texts([" "]) == [""]


# Parts of entities and tags that join only when the text between them is removed.
PIECES = ["&", "amp;", "lt;", "gt;", "#60;", "<", ">", "b", "/", "!", "--", "\u200b"]
PIECES += ["＜", "＆", "；", "e", "\u0301", " ", "\n", "\x00", "\u00a0", "\ud800", "猫"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
any_text = st.text(st.characters(exclude_categories=()), max_size=12)


@hypothesis.given(texts | any_text)
def test_normalization_is_idempotent(text):
    normalized = normalize_text(text)
    assert normalize_text(normalized) == normalized
    assert unicodedata.is_normalized("NFKC", normalized)
    assert normalized == " ".join(normalized.split())
    categories = {unicodedata.category(letter) for letter in normalized}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@hypothesis.given(st.lists(texts | any_text, max_size=5))
def test_random_lists_are_normalized_like_their_texts(text_list):
    assert normalize_texts(text_list) == [normalize_text(text) for text in text_list]


def test_words_of_several_scripts_are_split_and_case_folded():
    assert unigrams("STRASSE Straße ΣΊΣΥΦΟΣ") == ["strasse", "strasse", "σίσυφοσ"]
    assert unigrams("don't well-known alt_img a1b2") == (
        ["don", "t", "well", "known", "alt_img", "a1b2"]
    )
    assert unigrams("熊猫abc 東京タワー") == ["熊", "猫", "abc", "東", "京", "タワー"]
    assert unigrams("हिन्दी में") == ["हिन्दी", "में"]
    assert unigrams("❤️ 🧀 1️⃣ -- ...") == ["1"]
    assert unigrams("") == unigrams("\n \ud800") == []


@pytest.mark.ci
def test_ideographs_are_the_same_as_in_bert():
    tokenizers = pytest.importorskip("tokenizers")
    normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=False,
        handle_chinese_chars=True,
        strip_accents=False,
        lowercase=False,
    )
    letters = [chr(code) for code in range(0x3000, 0x30000, 97)]
    letters = [letter for letter in letters if unicodedata.category(letter) == "Lo"]
    # One range begins at 2B820 in BERT, but at 2B920 in `tokenizers` by mistake.
    letters = [letter for letter in letters if not 0x2B820 <= ord(letter) < 0x2B920]
    for letter in letters:
        is_separated = normalizer.normalize_str(f"a{letter}a") == f"a {letter} a"
        word = letter.casefold()
        expected = ["a", word, "a"] if is_separated else [f"a{word}a"]
        assert unigrams(f"a{letter}a") == expected, hex(ord(letter))


PERSONAL = {
    "email": [
        "Write to jane.doe+x@mail.example.co.uk now",
        "mailto:info@müller.example",
        "(a_b-c@example.org)",
    ],
    "phone": [
        "+49 (0)89 1234-567",
        "Call +1 415 555 2671 today",
        "(415) 555-2671",
        "415-555-2671",
        "1-800-234-5678",
        "089 / 123 45 67",
        "06 12 34 56 78",
        "06.12.34.56.78",
        "0612345678",
        "020 7946 0958",
        "Tel.: 555 12 34",
        "phone 5551234",
        "+٤٩ ١٢٣ ٤٥٦٧",
    ],
    "card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "Amex 378282246310005.",
        "5555555555554444",
        "2223003122003222",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "IBAN GB82WEST12345698765432",
        "BE68 5390 0754 7034 CALL US",
    ],
    "us ssn": ["SSN 123-45-6789", "078-05-1120"],
    "ipv4": ["server 192.168.0.1", "at 8.8.8.8 and 203.0.113.77"],
}
HARMLESS = [
    "2021-05-03",
    "2021-05-03 12:30:00",
    "03.05.2021 - 04.05.2021",
    "05/03/2021 06/07/2022",
    "20210503123456",
    "1920x1080 wallpaper, 3840 x 2160",
    "ISBN 978-3-16-148410-0",
    "ISBN-10: 0-306-40615-2",
    "ISBN 0306406152",
    "978-3-16-148410-0",
    "EAN 4006381333931",
    "$1,234,567.00 or €2.345.678",
    "1 000 000 000 people",
    "1939-1945 and 1914-1918",
    "from 2010 2011 2012 2013 2014",
    "IMG_20210503_123456.jpg",
    "DSC01234567",
    "3.14159265358979 and 0.123456789",
    "52.520008 13.404954",
    "version 1.2.3.4",
    "256.256.100.200",
    "@cat in 1234567 pictures",
    "cat @ home, 3 @ 5",
    "sizes 36 38 40 42 44 46",
    "US patent 7,654,321",
    "4111 1111 1111 1112",
    "GB82WEST12345698765433",
    "000-45-6789 666-45-6789 123-00-6789",
    "No. 12345678",
]


@pytest.mark.parametrize("kind", PERSONAL)
def test_personal_data_is_detected(kind):
    for text in PERSONAL[kind]:
        assert find_personal_data(text) == kind, text


def test_harmless_numbers_are_not_personal_data():
    for text in HARMLESS:
        assert find_personal_data(text) is None, text


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(10**14, 10**15 - 1))
def test_a_card_number_has_exactly_one_valid_check_digit(number):
    visa = f"4{number:015d}"[:15]
    kinds = [find_personal_data(f"{visa}{digit}") for digit in range(10)]
    assert kinds.count("card") == 1 and kinds.count(None) == 9


@hypothesis.given(
    st.text("+()0123456789 -.@aDE", max_size=30)
    | st.sampled_from(sum(PERSONAL.values(), []))
)
def test_the_features_mark_every_text_with_personal_data(text):
    # `find_personal_data` is called only for texts that `text_features` marks.
    if find_personal_data(text) is not None:
        assert text_features([text]).may_be_personal[0]


def test_long_texts_do_not_cause_backtracking():
    """The time limit of a test would end excessive backtracking."""
    for text in (
        "0" * 20_000,
        "1 " * 10_000,
        "a." * 10_000 + "@",
        "+1" * 10_000,
        "AB12" * 5_000,
    ):
        assert find_personal_data(text) is None, text[:8]

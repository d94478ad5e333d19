"""Normalization of captions, their words, and detection of personal data."""

import functools
import html
import itertools
import re
import unicodedata

import numpy as np

from align_keras.corpus.filters.text_hashes import MIN_DIGITS, find_words

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,31});", re.A)
# Matches scripts, styles, comments and tags, but not "a < b" or "<3".
_MARKUP = re.compile(
    r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>|<[!?][^<>]*>",
    re.I | re.S,
)
# Unicode categories of characters that separate words. Format characters (zero-width
# and bidirectional characters, soft hyphens, byte order marks) don't separate words.
_SPACES = {"Cc", "Cs", "Co", "Zl", "Zp"}

# 1 for each UTF-8 byte whose presence means that a text must be normalized.
_SUSPECT = np.zeros(256, np.uint8)
_SUSPECT[[*range(10), *range(11, 32), *range(127, 256), ord("<"), ord("&")]] = 1


def normalize_text(text: str) -> str:
    """Normalizes a caption to the form that the corpus counts and stores.

    The steps are:

    1. Entities are resolved.
    2. Tags, comments and scripts are removed.
    3. Characters are normalized to NFKC, because pages write the same words with
       full-width letters and ligatures ("m²" becomes "m2").
    4. Control characters and private-use characters become spaces, and format
       characters are removed, as in BERT.
    5. Runs of white space become one space.

    The function is idempotent.
    """
    while True:
        normalized = _normalize_once(text)
        # A removal can join two parts into a new entity, or a letter and its accent.
        # The loop ends because the number of entities and tags never increases.
        if normalized == text:
            return normalized
        text = normalized


def normalize_texts(texts: list[str]) -> list[str]:
    """Normalizes a list of texts, which is faster than `normalize_text` for each text.

    A single pass over the bytes finds the texts that are already normalized.
    """
    if not texts:
        return []
    joined = "\n".join(texts)
    if joined.count("\n") != len(texts) - 1:
        texts = [text.replace("\n", " ") for text in texts]
        joined = "\n".join(texts)
    # A newline precedes and follows every text, including the first and the last.
    content = f"\n{joined}\n".encode("utf-8", "surrogatepass")
    data = np.frombuffer(content, np.uint8)
    suspect = _SUSPECT[data].view(bool)
    # Marks spaces that are next to another space or at the edge of a text.
    space = data == ord(" ")
    blank = space | (data == ord("\n"))
    suspect[1:] |= space[1:] & blank[:-1]
    suspect[:-1] |= space[:-1] & blank[1:]
    ends = np.flatnonzero(data == ord("\n"))[1:]
    rows = np.unique(np.searchsorted(ends, np.flatnonzero(suspect)))
    if rows.size:
        texts = list(texts)
        for row in rows.tolist():
            texts[row] = normalize_text(texts[row])
    return texts


def unigrams(text: str) -> list[str]:
    """Returns the case-folded words of a text.

    A word is a run of letters, combining marks, numerals and underscores, or a single
    CJK ideograph. Section 3 of the paper uses unigrams without a definition.
    """
    words = find_words([text.encode("utf-8", "replace").decode().replace("\n", " ")])
    content = words.data.tobytes()
    return [
        content[start:end].decode()
        for start, end in zip(words.starts, words.ends, strict=True)
    ]


def _normalize_once(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(map(_visible, text))
    return " ".join(text.split())


@functools.lru_cache(4096)
def _visible(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Cf":
        return ""
    return " " if category in _SPACES else letter


# Dates, times and sizes. Their digits aren't personal data.
_HARMLESS = re.compile(
    r"\b\d{4}[-./]\d{1,2}[-./]\d{1,2}\b|\b\d{1,2}[-./]\d{1,2}[-./]\d{4}\b"
    r"|\b\d{1,2}:\d\d(?::\d\d)?\b|\b\d+ ?[x×*] ?\d+(?: ?[x×*] ?\d+)?\b",
    re.I,
)
# Catalog numbers of books and goods, with the word that introduces them.
_CATALOGUED = re.compile(
    r"\b(?:ISBN|ISSN|ISMN|EAN|UPC|GTIN|ASIN|SKU|DOI|PMID|OCLC)(?:[- ]?1[03])?\b"
    r"[\s:#.№-]*[\dXx][\dXx ./-]*",
    re.I,
)
_EMAIL = re.compile(r"[^\W_][\w.+-]{0,63}@(?:[^\W_][\w-]{0,62}\.)+[^\W\d_]{2,24}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){13,15}(?![\w-])")
# First digits and lengths of the card numbers of each issuer.
_ISSUERS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|6(?:011|[45]\d\d)\d{12}|35\d{14}"
)
_US_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.\d)", re.A)
_PHONES = re.compile(
    # International numbers such as +49 (0)89 1234-567.
    r"(?<![\w+.,])\+ ?(?!0)\d(?:[ ./()-]{0,3}\d){7,14}(?![\w-])"
    # North American numbers such as (415) 555-2671 and 1-415-555-2671.
    r"|(?<![\w.,$€£-])(?:1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{4}"
    r"(?![\w-])"
    # National numbers with a leading zero, such as 089 / 123 45 67, 06 12 34 56 78 and
    # 0612345678.
    r"|(?<![\w.,$€£-])\(?0[1-9]\d{0,3}\)?(?:(?: ?[/-] ?| |\.)\d{2,8}){1,4}(?![\w-])"
    r"|(?<![\w.,$€£-])0[1-9]\d{8,9}(?![\w-])"
    # Numbers after a word such as "Tel.", for example Tel.: 555 1234.
    r"|\b(?:tel|telephone|téléphone|telefon|teléfono|phone|mobile|mobil|handy|fax|call"
    r"|whatsapp)\b[\s.:#]{0,3}\(?\d(?:[ ./()-]{0,2}\d){5,14}(?![\w-])",
    re.I,
)
# A number with a leading zero needs this number of digits to count as a phone number.
_MIN_NATIONAL_DIGITS = 9


def find_personal_data(text: str) -> str | None:
    """Returns the kind of personal data in a normalized text.

    Names and street addresses are not detected.

    Args:
        text: from `normalize_text`.

    Returns:
        The first kind that is present, or None:

        - "email"
        - "iban" or "card", with valid check digits
        - "us ssn", a social security number
        - "ipv4"
        - "phone", in a common format or after a word such as "Tel."
    """
    if _EMAIL.search(text):
        return "email"
    if _digits(text) < MIN_DIGITS:
        return None
    text = _HARMLESS.sub(" ; ", _CATALOGUED.sub(" ; ", text))
    if _digits(text) < MIN_DIGITS:
        return None
    if any(_is_iban(match[0]) for match in _IBAN.finditer(text)):
        return "iban"
    if any(_is_card(match[0]) for match in _CARD.finditer(text)):
        return "card"
    if _US_SSN.search(text):
        return "us ssn"
    if any(_digits(match[0]) >= MIN_DIGITS for match in _IPV4.finditer(text)):
        return "ipv4"
    if any(_is_phone(match[0]) for match in _PHONES.finditer(text)):
        return "phone"
    return None


def _digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


def _is_phone(number: str) -> bool:
    national = number.lstrip("(").startswith("0")
    return _digits(number) >= (_MIN_NATIONAL_DIGITS if national else MIN_DIGITS)


def _is_card(number: str) -> bool:
    digits = [int(letter) for letter in number if letter.isdecimal()]
    if not _ISSUERS.fullmatch("".join(map(str, digits))):
        return False
    # Luhn algorithm: every second digit from the right is doubled.
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(number: str) -> bool:
    # The text after an IBAN can look like further groups of digits, so every prefix is
    # checked.
    for iban in itertools.accumulate(number.split(" ")):
        # ISO 7064: A is 10, B is 11 and so on. The first four characters come last.
        if iban.isascii() and 15 <= len(iban) <= 34:
            digits = "".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])
            if int(digits) % 97 == 1:
                return True
    return False

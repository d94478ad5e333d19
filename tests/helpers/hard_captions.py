"""Captions that tokenizers disagree on, and letters with known disagreements."""

import random
import re

from align_keras.text.vocabulary import SPECIAL_TOKENS

VOCABULARY = [*SPECIAL_TOKENS, "red", "a", "##der", "##s", "bi", "##ke", ",", "[", "]"]

HARD_CASES = [
    "",
    " ",
    "Crème brûlée à la façon de l'Île",
    "e\u0301 É a\u0308\u0304\u0323",
    "日本語のテキスト、漢字。",
    "中文字幕 abc中文def",
    "한글 텍스트 각",
    "Привет, мир! Ёжик й",
    "Ελληνικά ΣΟΦΟΣ σοφός",
    "İstanbul ISPARTA ısı",
    "straße STRASSE ẞ ﬁnal oﬃce",
    "Ａ full ｗidth ，。！ ½ ² ①",
    "ภาษาไทย ก็ ๑๒๓",
    "हिन्दी क्षत्रिय ૨૫ সংখ্যা",
    "العربية مُحَمَّد لا",
    "עברית שָׁלוֹם",
    "ქართული Ⴀ ა հայերեն",
    "👩\u200d👩\u200d👧 🥺 🤣 🏳️\u200d🌈 ❤️ #️⃣ 🇩🇪",
    "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg",
    "a\x00b\x01c\x7fd\x85e\x0bf\x0cg\x1ch",
    "a\u00a0b\u1680c\u2003d\u2028e\u2029f\u202fg\u3000h\ti\nj\rk",
    "...!!!???---___$$$+++===~~~```^^^|||<<<>>>",
    "“quoted” ‘x’ «y» „z“ – — … • ·",
    "a_b a-b a.b a'b 3.14 1,000 $5 5€ £5 5% #tag @me http://x.y/z?q=1&r=2",
    "[MASK] a[MASK]b [[SEP]] [CLS][PAD] [UNK] [mask] [MASK",
    "[MA\x00SK] [MA\u200bSK] [MASK\u0301]",
    "\ue000mask \ue001 \uf8ff \U000f0000",
    "##er #er ## # ###",
    "x" * 100,
    "x" * 101,
    "é" * 100 + " " + "é" * 101,
    "e\u0301" * 60,
    "漢" * 101,
    "𐌰𐌱" * 50 + " " + "𐌰" * 101,
    "豈更車 \U0002f800 \ufa0e",
    "\u0344 \u1fef \u037e \u2126 \u212a \u212b",
    "ǅ ǈ Ǆ ŉ ǰ ΐ",
    "\U0001d400\U0001d7ce \U00010400 \u2c2f \ua7c0",
    "word " * 200,
]

# Letters that are newer than the Unicode version of tensorflow_text's ICU library. That
# version cannot lowercase these capitals.
CAPITALS = (
    "1C89 2C2F A7C0 A7CB A7CC A7CE A7D0 A7D2 A7D4 A7D6 A7D8 A7DA A7DC 10570-1057A "
    "1057C-1058A 1058C-10592 10594-10595 10D50-10D65 16EA0-16EB8"
)
# The same version cannot decompose these composed letters.
COMPOSED = (
    "105C9 105E4 11383 11385 1138E 11391 113C5 113C7-113C8 11938 16121-16128 "
    "16D68-16D6A"
)


def code_points(ranges):
    """Returns the code points in hexadecimal ranges, such as "2C2F A7CB-A7CC"."""
    points = set()
    for part in ranges.split():
        first, last = (part.split("-") * 2)[:2]
        points.update(range(int(first, 16), int(last, 16) + 1))
    return points


NEW_LETTERS = {
    "bert_uncased": code_points(CAPITALS + " " + COMPOSED),
    "bert_cased": set(),
}


def random_captions(count, seed=0):
    """Returns captions in many scripts, with whole and broken special tokens."""
    source = random.Random(seed)
    pools = [
        range(0x20, 0x7F),
        range(0x80, 0x250),
        range(0x300, 0x530),
        range(0x590, 0x700),
        range(0x900, 0x980),
        range(0xE00, 0xE80),
        range(0x1E00, 0x2100),
        range(0x3000, 0x3100),
        range(0x4E00, 0x4F00),
        range(0xAC00, 0xAD00),
        range(0xF900, 0xFB10),
        range(0x1F300, 0x1F700),
        range(0x20),
        range(0xD800),
        range(0xE000, 0xE010),
        range(0xE000, 0x10000),
    ]
    pieces = [*SPECIAL_TOKENS, "[mask]", "[MA", "SK]", "\ue000mask", "##a", "\u0307"]

    def draw_piece():
        chance = source.random()
        if chance < 0.05:
            return source.choice(pieces)
        if chance < 0.5:
            return source.choice("abcABIİΣσς .,-#'")
        return chr(source.choice(source.choice(pools)))

    captions = [
        "".join(draw_piece() for _ in range(source.randint(0, 30)))
        for _ in range(count)
    ]
    # Removes letters that are newer than the Unicode version of tensorflow_text.
    return [re.sub("[\u1c89\u2c2f\ua7c0-\ua7dc]", "", caption) for caption in captions]

"""Tests of the captions of an emoji."""

import pytest

from tools.drawings.emoji import emoji_captions


@pytest.mark.parametrize(
    ("name", "short_names", "category", "captions"),
    [
        # Case and white space.
        ("Egypt Flag", ["flag-eg"], "Flags", ["egypt flag"]),
        ("T-REX\x00 ", ["t-rex"], "", ["t-rex"]),
        # A short name with more words, with fewer words, or with another order.
        ("CLOUD WITH LIGHTNING", ["lightning", "lightning_cloud"], "",
         ["cloud with lightning", "lightning", "lightning cloud"]),
        ("CAT FACE", ["cat"], "", ["cat face", "cat"]),
        ("England Flag", ["flag-england"], "Flags", ["england flag"]),
        ("MAN: BEARD", ["man_with_beard"], "", ["man: beard", "man with beard"]),
        # Country codes, which are removed only for flags, and code points.
        ("Germany Flag", ["de", "flag-de"], "Flags", ["germany flag"]),
        ("TELEVISION", ["tv"], "Objects", ["television", "tv"]),
        ("CHEQUERED FLAG", ["checkered_flag"], "Flags",
         ["chequered flag", "checkered flag"]),
        ("SQUARED CJK UNIFIED IDEOGRAPH-7A7A", ["u7a7a"], "Symbols",
         ["squared cjk unified ideograph"]),
        # Numbers, signs and single letters.
        ("WHITE UP POINTING BACKHAND INDEX", ["point_up_2"], "",
         ["up pointing backhand index", "point up"]),
        ("THUMBS UP SIGN", ["+1", "thumbsup"], "", ["thumbs up sign", "thumbsup"]),
        ("HUNDRED POINTS SYMBOL", ["100"], "", ["hundred points symbol"]),
        ("CROSS MARK", ["x"], "", ["cross mark"]),
        ("", ["1234"], "", []),
        ("", [], "", []),
        # Words for filled, outlined and thick symbols, and for real colors.
        ("BLACK TELEPHONE", ["phone"], "", ["telephone", "phone"]),
        ("WHITE SMILING FACE", ["relaxed"], "", ["smiling face", "relaxed"]),
        ("WHITE FLOWER", ["white_flower"], "", ["white flower"]),
        ("HEAVY PLUS SIGN", ["heavy_plus_sign"], "", ["heavy plus sign"]),
        ("BLACK", ["dark"], "", ["black", "dark"]),
    ],
)  # fmt: skip
def test_names_become_captions(name, short_names, category, captions):
    assert emoji_captions(name, short_names, category) == captions

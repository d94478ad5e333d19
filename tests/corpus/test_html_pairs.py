"""Tests of the extraction of pairs from web pages, compared with browsers."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import decode_html, extract_pairs, parse_srcset
from align_keras.utils.errors import InputError

pytest.importorskip("selectolax")

PAGE = "https://example.org/a/page.html"


def pairs(html, base_url=PAGE):
    return [
        (pair.rule, pair.caption, pair.image_url)
        for pair in extract_pairs(html, base_url)
    ]


def urls(html, base_url=PAGE):
    return [pair.image_url for pair in extract_pairs(html, base_url)]


def test_alt_title_and_figcaption_are_separate_pairs():
    html = """<figure><a><img src=cat.jpg alt="A cat." title="Tom &amp; co."></a>
      <figcaption>Tom <b>the</b><br>cat</figcaption></figure>"""
    address = "https://example.org/a/cat.jpg"
    assert pairs(html) == [
        ("alt", "A cat.", address),
        ("title", "Tom & co.", address),
        ("figcaption", "Tom the cat", address),
    ]


def test_equal_captions_of_an_image_give_one_pair():
    html = '<img src=a.png alt=x title=" x "><noscript><img src=a.png alt=x></noscript>'
    assert pairs(html) == [("alt", "x", "https://example.org/a/a.png")]


def test_equal_captions_of_two_images_give_two_pairs():
    assert len(pairs('<img src=a.png alt=x><img src=b.png alt="x">')) == 2


@pytest.mark.parametrize(
    "meta, is_opted_out",
    [
        ('<meta name="robots" content="noai">', True),
        ("<META CONTENT='follow, NoImageAI' NAME=' Robots '>", True),
        ("<meta name=robots content=all><meta name=robots content=noindex>", True),
        ("<meta name=robots content=noimageindex>", True),
        ("<meta name=robots content='nofollow,none'>", False),
        ("<meta name=robots content=noarchive>", False),
        ("<meta name=robots>", False),
        # Directives for a single robot are ignored, as in the HTTP header.
        ("<meta name=googlebot content=noai>", False),
        ("<meta property=robots content=noai>", False),
        ("<!-- <meta name=robots content=noai> -->", False),
    ],
)
def test_a_page_can_opt_out(meta, is_opted_out):
    # The caption of the third image is a file name, which is dropped on any page.
    html = f"{meta}<img src=a.png alt=x><img src=b.png alt=y><img src=c.png alt=c.png>"
    counter = DropCounter()
    captions = [pair.caption for pair in extract_pairs(html, PAGE, counter)]
    assert captions == ([] if is_opted_out else ["x", "y"])
    assert counter.filtered["opted out"] == (2 if is_opted_out else 0)
    assert sum(counter.bad.values()) + sum(counter.filtered.values()) == 1 + (
        2 if is_opted_out else 0
    )
    assert len(list(extract_pairs(html, PAGE, honor_opt_out=False))) == 2


@pytest.mark.parametrize("html", ["<img src=a.png>", "<img src=a.png alt=' \n'>"])
def test_images_without_captions_are_skipped(html):
    assert pairs(html) == []


@pytest.mark.parametrize(
    "address, expected",
    [
        ("b.png", "https://example.org/a/b.png"),
        ("/b.png#part", "https://example.org/b.png"),
        ("../b c.png", "https://example.org/b%20c.png"),
        ("//other.org/b.png?x=1&amp;y=2", "https://other.org/b.png?x=1&y=2"),
        ("\n b\n.png ", "https://example.org/a/b.png"),
        ("data:image/gif;base64,R0lG", "data:image/gif;base64,R0lG"),
        ("HTTPS://other.org/b.png", "https://other.org/b.png"),
    ],
)
def test_addresses_become_absolute(address, expected):
    assert urls(f'<img alt=x src="{address}">') == [expected]


@pytest.mark.parametrize(
    "address", ["", "#", "javascript:x()", "blob:1", "about:blank", "http://[::1/x"]
)
def test_invalid_addresses_are_skipped(address):
    image_urls = urls(f'<img alt=x src="{address}"><img alt=x src=b.png>')
    assert image_urls[-1] == "https://example.org/a/b.png"
    # A `src` with nothing but a fragment is the address of the page.
    assert image_urls[:-1] in ([], [PAGE])


def test_base_href_is_the_base_of_addresses():
    html = '<base href="/images/"><img src=a.png alt=x>'
    assert urls(html) == ["https://example.org/images/a.png"]
    html = '<base href="javascript:x"><img src=a.png alt=x>'
    assert urls(html) == ["https://example.org/a/a.png"]


def test_the_largest_version_is_used():
    html = """<picture><source srcset="a.webp 800w, b.webp 1600w" type=image/webp>
      <img src=small.jpg srcset="c.jpg 400w, d.jpg 1200w" alt=x></picture>"""
    assert urls(html) == ["https://example.org/a/b.webp"]
    assert urls('<img src=a.png srcset="b.png 2x" alt=x>')[0].endswith("/b.png")
    # If the sizes are equal, `srcset` is preferred to `src`.
    assert urls('<img src=a.png srcset="b.png 1x" alt=x>')[0].endswith("/b.png")


def test_the_address_for_lazy_loading_replaces_the_placeholder():
    placeholder = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    html = f'<img src="{placeholder}" data-src=real.jpg alt=x>'
    assert urls(html) == ["https://example.org/a/real.jpg"]


@pytest.mark.parametrize(
    "srcset, expected",
    [
        ("", []),
        (" , ,", []),
        ("a.png", [("a.png", 1)]),
        ("a.png,b.png 2x", [("a.png,b.png", 2)]),  # The HTML standard requires this.
        ("a.png 1.5x , b.png 2x,", [("a.png", 1.5), ("b.png", 2)]),
        ("a,b.png 100w", [("a,b.png", 100)]),
        ("a.png huge, b.png 1..2x", [("a.png", 1), ("b.png", 1)]),
    ],
)
def test_srcset_is_parsed(srcset, expected):
    assert parse_srcset(srcset) == expected


def test_the_language_comes_from_the_nearest_element():
    html = """<html lang=EN><img src=a alt=a><p lang="pt-BR"><img src=b alt=b>
      <span lang=""><img src=c alt=c></span></p></html>"""
    languages = [pair.language for pair in extract_pairs(html, PAGE)]
    assert languages == ["en", "pt-br", ""]
    (pair,) = extract_pairs("<img src=a alt=a>", PAGE)
    assert (pair.language, pair.page_url) == ("", PAGE)


@pytest.mark.parametrize(
    "html",
    [
        "<img src=a.png alt=x",
        "<table><img src=a.png alt=x><td></b></i>",
        "<title>never closed<img src=b.png alt=y></title><img src=a.png alt=x>",
        "<!-- <img src=b.png alt=y> --><img src=a.png alt=x><!-- never closed",
        "\x00<img src=a.png alt=x>\ud800",
    ],
)
def test_malformed_pages_are_parsed(html):
    image_urls = urls(html)
    assert image_urls in ([], ["https://example.org/a/a.png"])
    # The image is only missing if its element never ends.
    assert image_urls or html.endswith("alt=x")


@settings(max_examples=50, deadline=None)
@given(st.text() | st.binary())
def test_any_text_and_bytes_can_be_parsed(html):
    assert list(extract_pairs(html, PAGE)) == list(extract_pairs(html, PAGE))


@pytest.mark.parametrize(
    "content, charset, expected",
    [
        ("č".encode(), None, "č"),
        (b"\xe8", None, "è"),
        (b'<meta charset="iso-8859-2">\xe8', None, '<meta charset="iso-8859-2">č'),
        (b"\xe8", "windows-1250", "č"),
        (b"\x93", "latin-1", "“"),
        (b"\xef\xbb\xbfx", "iso-8859-2", "x"),
        ("x".encode("utf-16"), None, "x"),
        (b"<meta charset=utf-16>\xc4\x8d", None, "<meta charset=utf-16>č"),
        (b"x", "no-such-code", "x"),
    ],
)
def test_the_encoding_is_detected(content, charset, expected):
    assert decode_html(content, charset) == expected


def test_a_missing_parser_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(InputError, match=r"selectolax.*align-keras\[corpus\]"):
        list(extract_pairs("", PAGE))

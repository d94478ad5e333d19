"""Tests of SVG drawings: their sizes, their pixels and malicious drawings."""

import gzip
import importlib.util

import pytest

from align_keras.corpus.drop_counter import NO_RENDERER, DropCounter
from align_keras.utils import pillow_images, svg_drawing
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import decode_rgb, image_size
from align_keras.utils.svg_drawing import read_svg

HAS_RENDERER = importlib.util.find_spec("resvg_py") is not None
needs_renderer = pytest.mark.skipif(
    not HAS_RENDERER, reason="could not import 'resvg_py'"
)


def svg(body="", attributes='width="300" height="200"'):
    return (
        '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{body}</svg>'
    ).encode()


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="300" height="200"', (300, 200)),
        ('width="2in" height="25.4mm"', (192, 96)),
        ('viewBox="0 0 40 10"', (40, 10)),
        ('width="80" viewBox="0 0 40 10"', (80, 20)),
        ('width="10000" height="5000"', (2048, 1024)),
        ("", (300, 150)),
        ('width="0" height="-5" viewBox="0 0 0 x"', (300, 150)),
    ],
)
def test_sizes_match_the_sizes_in_browsers(attributes, size):
    content = svg(attributes=attributes)
    assert read_svg(content).size == size
    assert read_svg(gzip.compress(content)).size == size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"<html><svg></svg></html>",
        b"<svg/>",
        gzip.compress(b"x", mtime=0),
    ],
)
def test_other_files_are_not_drawings(content):
    assert read_svg(content) is None


# Entities that expand to 10**11 copies of the first one, the "billion laughs" attack.
ENTITIES = "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (svg("<g>" * 500 + "</g>" * 500), "nested"),
        (svg("<g/>" * 50_001), "elements"),
        (svg("<!--" + "x" * 8_000_000 + "-->"), "bytes"),
        (gzip.compress(svg("<!--" + "x" * 20_000_000 + "-->")), "bytes"),
        (svg("<g>"), "broken XML"),
        (svg("&nothing;"), "broken XML"),
        (b'<!DOCTYPE svg [<!ENTITY a0 "lol">' + ENTITIES + b"]>" + svg("&a11;")[22:],
         "broken XML"),
    ],
    ids=["deep", "many", "large", "inflated", "cut", "entity", "laughs"],
)  # fmt: skip
def test_malicious_drawings_are_refused_before_rendering(content, message):
    with pytest.raises(ImageError, match=message):
        read_svg(content)


def test_links_to_other_files_are_removed():
    body = (
        '<image xlink:href="/etc/a.png"/><image href=" file:///a.png"/>'
        '<use href="b.svg#x"/><use href="#x"/><image href="data:image/png;base64,AA"/>'
    )
    content = read_svg(svg(body)).content
    assert b"a.png" not in content and b"b.svg" not in content
    assert content.count(b"href=") == 2


def test_the_error_names_the_missing_extra(monkeypatch):
    monkeypatch.setattr(pillow_images, "has_renderer", lambda: False)
    with pytest.raises(ImageError, match="align-keras.svg") as error_info:
        decode_rgb(svg())
    assert error_info.value.reason == NO_RENDERER
    counter = DropCounter()
    counter.drop(error_info.value.reason, "a.svg")
    assert "align-keras[svg]" in counter.lines()[1]


@pytest.mark.ci
@needs_renderer
def test_a_drawing_is_rendered_on_white():
    square = '<rect width="150" height="200" fill="#f00"/>'
    for content in (svg(square), gzip.compress(svg(square))):
        image, conversion = decode_rgb(content)
        assert (image.mode, image.size) == ("RGB", image_size(content))
        assert image.getpixel((10, 10)) == (255, 0, 0)
        assert image.getpixel((290, 10)) == (255, 255, 255)
        assert conversion == "svg, transparency"


@pytest.mark.ci
@needs_renderer
def test_a_large_drawing_is_reduced():
    content = svg('<rect width="5000" height="9000"/>', 'width="10000" height="9000"')
    image, _ = decode_rgb(content)
    assert image.size == image_size(content) == (2048, 1843)
    assert image.getpixel((1000, 1800)) == (0, 0, 0)
    assert image.getpixel((1048, 1800)) == (255, 255, 255)


@pytest.mark.ci
@needs_renderer
def test_a_drawing_that_crashes_its_process_is_unreadable():
    nested_uses = '<rect id="a0"/>' + "".join(
        f'<g id="a{i}">' + f'<use href="#a{i - 1}"/>' * 10 + "</g>" for i in range(1, 8)
    )
    pattern = (
        '<pattern id="p" width="1e7" height="1e7" patternUnits="userSpaceOnUse">'
        '<rect width="1" height="1"/></pattern>'
        '<rect width="1e8" height="1e8" fill="url(#p)"/>'
    )
    for body in (f'{nested_uses}<use href="#a7"/>', pattern):
        with pytest.raises(ImageError, match="failed"):
            decode_rgb(svg(body))


@pytest.mark.ci
@needs_renderer
def test_rendering_has_a_timeout(monkeypatch):
    monkeypatch.setattr(svg_drawing, "RENDER_PROGRAM", "while True: pass")
    monkeypatch.setattr(svg_drawing, "RENDER_TIMEOUT", 0.2)
    with pytest.raises(ImageError, match="seconds"):
        decode_rgb(svg())

import base64
import io
import re

import pytest
from PIL import Image

from align_keras.search.terminal_images import draw_image, image_protocol


@pytest.mark.parametrize(
    "environ, protocol",
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks256"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "blocks"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "1"}, None),
        ({"TERM": "screen-256color", "TMUX": "1"}, "blocks256"),
        ({}, None),
    ],
)
def test_environment_selects_the_protocol(environ, protocol):
    assert image_protocol(environ, True) == protocol
    assert image_protocol(environ, False) is None


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "a.png")
    image = Image.effect_noise((300, 200), 90).convert("RGB")
    image.save(path)
    return path


def test_kitty_and_iterm2_get_a_png(path):
    parts = re.findall("\x1b_G(.*?);(.*?)\x1b\\\\", draw_image(path, "kitty"))
    assert len(parts) > 1 and parts[0][0] == "a=T,f=100,r=7,m=1"
    assert [keys for keys, _ in parts[1:]] == ["m=1"] * (len(parts) - 2) + ["m=0"]
    content = base64.b64decode("".join(text for _, text in parts))
    assert Image.open(io.BytesIO(content)).size == (210, 140)
    content = draw_image(path, "iterm2").split(":")[1].removesuffix("\a")
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (210, 140)


def test_decoded_sixels_equal_the_pixels(tmp_path):
    path = tmp_path / "two.png"
    image = Image.new("RGB", (8, 7), "red")
    image.paste("blue", (3, 0, 8, 7))
    image.save(path)
    text = draw_image(str(path), "sixel")
    head, body = re.fullmatch('\x1bPq("1;1;8;7)(.*)\x1b\\\\', text).groups()
    colors = dict(re.findall(r"#(\d+);2;(\d+;\d+;\d+)", body))
    # Decodes the sixels by the rules of the standard.
    pixels = {}
    for line, band in enumerate(re.sub(r"#\d+;2;\d+;\d+;\d+", "", body).split("-")):
        for color, row in re.findall(r"#(\d+)([?-~]+)", band):
            for x, character in enumerate(row):
                for bit in range(6):
                    if ord(character) - 63 >> bit & 1:
                        pixels[x, 6 * line + bit] = colors[color]
    assert len(pixels) == 8 * 7
    assert {pixels[x, y] for x in range(3) for y in range(7)} == {"100;0;0"}
    assert {pixels[x, y] for x in range(3, 8) for y in range(7)} == {"0;0;100"}


@pytest.mark.parametrize(
    "protocol, red, blue",
    [("blocks", "8;2;255;0;0", "8;2;0;0;255"), ("blocks256", "8;5;196", "8;5;21")],
)
def test_blocks_are_two_pixels_high(tmp_path, protocol, red, blue):
    image = Image.new("RGB", (2, 3), "red")
    image.paste("blue", (0, 1, 2, 2))
    image.save(tmp_path / "two.png")
    first, second = draw_image(str(tmp_path / "two.png"), protocol).split("\n")
    assert first == 2 * f"\x1b[3{red};4{blue}m▀" + "\x1b[0m"
    assert second == 2 * f"\x1b[3{red};49m▀" + "\x1b[0m"


def test_a_missing_file_is_not_drawn(tmp_path):
    assert draw_image(str(tmp_path / "none.png"), "kitty") is None

"""Small images in terminals: kitty's, iTerm2's and sixel's way, or blocks of colors."""

import base64
import io
import os
from collections.abc import Mapping

# Of a terminal's cells, each about 10 by 20 pixels.
ROWS = 7
_PIXELS = 20 * ROWS
_KITTY_CHUNK = 4096
_SIXEL_COLORS = 64
# Of colored cells, each two pixels high.
_BLOCK_ROWS = 12
# Terminals that are known to draw sixels; others can't be told without asking them.
_SIXEL_TERMS = ("foot", "mlterm", "yaft", "contour", "xterm-sixel")


def protocol(environ: Mapping[str, str], is_terminal: bool) -> str | None:
    """Returns kitty, iterm2, sixel, blocks (of true colors), blocks256, or None for
    text.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not is_terminal or "NO_COLOR" in environ:
        return None
    blocks = "blocks256" if "256color" in term else None
    if environ.get("COLORTERM") in ("truecolor", "24bit"):
        blocks = "blocks"
    # Multiplexers pass no images through.
    if "TMUX" in environ or term.startswith("screen"):
        return blocks
    if "kitty" in term or "KITTY_WINDOW_ID" in environ or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term.startswith(_SIXEL_TERMS) else blocks


def drawn(path: str, way: str) -> str | None:
    """Returns what draws an image's file, some rows high; None if it can't be read."""
    from PIL import Image

    from align_keras.corpus.image import ImageError
    from align_keras.search.image_files import read_file, read_upright

    try:
        image = read_upright(read_file(os.fsencode(path))[0], _PIXELS)
    except ImageError:
        return None
    if way.startswith("blocks"):
        return _blocks(image, way == "blocks")
    image.thumbnail((3 * _PIXELS, _PIXELS), Image.Resampling.BILINEAR)
    if way == "sixel":
        return _sixel(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    if way == "iterm2":
        return f"\x1b]1337;File=inline=1;height={ROWS}:{content}\a"
    return _kitty(content)


def _blocks(image, true_colors):
    """Upper half blocks, whose background is the lower pixel."""
    image.thumbnail((6 * _BLOCK_ROWS, 2 * _BLOCK_ROWS))
    pixels = image.load()

    def color(x, y):
        if y >= image.height:
            return "9"  # The terminal's background.
        red, green, blue = pixels[x, y]
        if true_colors:
            return f"8;2;{red};{green};{blue}"
        red, green, blue = (round(level / 51) for level in (red, green, blue))
        return f"8;5;{16 + 36 * red + 6 * green + blue}"

    return "\n".join(
        "".join(f"\x1b[3{color(x, y)};4{color(x, y + 1)}m▀" for x in range(image.width))
        + "\x1b[0m"
        for y in range(0, image.height, 2)
    )


def _kitty(content):
    parts = range(0, len(content), _KITTY_CHUNK)
    last = len(content) - _KITTY_CHUNK
    return "".join(
        f"\x1b_G{f'a=T,f=100,r={ROWS},' if start == 0 else ''}m={int(start < last)};"
        f"{content[start : start + _KITTY_CHUNK]}\x1b\\"
        for start in parts
    )


def _sixel(image):
    """Six rows of pixels a line, each color over the ones before."""
    image = image.quantize(_SIXEL_COLORS)
    width, height = image.size
    pixels, palette = image.load(), image.getpalette("RGB")
    lines = [f'\x1bPq"1;1;{width};{height}']
    for color in range(len(palette) // 3):
        red, green, blue = (100 * c // 255 for c in palette[3 * color : 3 * color + 3])
        lines.append(f"#{color};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band: dict[int, bytearray] = {}
        for y in range(top, min(top + 6, height)):
            for x in range(width):
                row = band.setdefault(pixels[x, y], bytearray(width))
                row[x] |= 1 << (y - top)
        drawn_colors = (
            f"#{color}" + "".join(chr(63 + bits) for bits in row)
            for color, row in band.items()
        )
        lines.append("$".join(drawn_colors) + "-")
    return "".join(lines) + "\x1b\\"

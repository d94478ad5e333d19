"""Small images in a terminal, drawn with kitty, iTerm2, sixel or color blocks."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Height of an image in terminal cells. A cell has about 10 by 20 pixels.
ROWS = 7
_PIXELS = 20 * ROWS
_KITTY_CHUNK = 4096
_SIXEL_COLORS = 64
# Height of an image of color blocks in terminal cells. A cell shows two pixels.
_BLOCK_ROWS = 12
# Values of $TERM for terminals that support sixel. Recognizing other terminals would
# require a query to the terminal.
_SIXEL_TERMS = ("foot", "mlterm", "yaft", "contour", "xterm-sixel")


def image_protocol(environ: Mapping[str, str], is_terminal: bool) -> str | None:
    """Returns the image protocol that the terminal supports.

    Args:
        environ: dict, environment variables.
        is_terminal: bool, True if the output is a terminal.

    Returns:
        str, "kitty", "iterm2", "sixel", "blocks" (24-bit colors) or "blocks256" (256
        colors), or None if the output cannot show images.
    """
    if not is_terminal or "NO_COLOR" in environ:
        return None
    term = environ.get("TERM", "")
    program = environ.get("TERM_PROGRAM", "")
    blocks = "blocks256" if "256color" in term else None
    if environ.get("COLORTERM") in ("truecolor", "24bit"):
        blocks = "blocks"
    # Terminal multiplexers do not forward images, but they forward colors.
    if "TMUX" in environ or term.startswith("screen"):
        return blocks
    if "kitty" in term or "KITTY_WINDOW_ID" in environ or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term.startswith(_SIXEL_TERMS) else blocks


def draw_image(path: str, protocol: str) -> str | None:
    """Returns the escape sequences of an image, or None if its file cannot be read.

    Args:
        path: str, path of the image.
        protocol: str, a result of `image_protocol`.
    """
    from PIL import Image

    from align_keras.search.image_files import read_file, read_upright
    from align_keras.utils.pillow_images import ImageError

    try:
        image = read_upright(read_file(os.fsencode(path))[0], _PIXELS)
    except ImageError:
        return None
    if protocol.startswith("blocks"):
        return _draw_blocks(image, protocol == "blocks")
    image.thumbnail((3 * _PIXELS, _PIXELS), Image.Resampling.BILINEAR)
    if protocol == "sixel":
        return _sixel_sequence(image)
    file = io.BytesIO()
    image.save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;height={ROWS}:{content}\a"
    return _kitty_sequence(content)


def _draw_blocks(image: "Image.Image", true_colors: bool) -> str:
    """Draws upper half blocks, whose foreground color is the upper pixel of a cell."""
    image.thumbnail((6 * _BLOCK_ROWS, 2 * _BLOCK_ROWS))
    pixels = np.asarray(image).tolist()
    lines = []
    for y in range(0, image.height, 2):
        line = ""
        for x in range(image.width):
            upper = _color_code(pixels[y][x], true_colors)
            lower = "9"  # Default background of the terminal.
            if y + 1 < image.height:
                lower = _color_code(pixels[y + 1][x], true_colors)
            line += f"\x1b[3{upper};4{lower}m▀"
        lines.append(line + "\x1b[0m")
    return "\n".join(lines)


def _color_code(pixel: Sequence[int], true_colors: bool) -> str:
    """Returns the parameters of an escape sequence for a color."""
    if true_colors:
        red, green, blue = pixel
        return f"8;2;{red};{green};{blue}"
    # The palette of 256 colors has six levels of each primary color.
    red, green, blue = (round(level / 51) for level in pixel)
    return f"8;5;{16 + 36 * red + 6 * green + blue}"


def _kitty_sequence(content: str) -> str:
    """Returns the escape sequences of kitty for a PNG in base64."""
    chunks = []
    for start in range(0, len(content), _KITTY_CHUNK):
        stop = start + _KITTY_CHUNK
        # Only the first chunk contains the parameters of the image.
        parameters = f"a=T,f=100,r={ROWS}," if start == 0 else ""
        has_more = int(stop < len(content))
        chunks.append(f"\x1b_G{parameters}m={has_more};{content[start:stop]}\x1b\\")
    return "".join(chunks)


def _sixel_sequence(image: "Image.Image") -> str:
    """Returns the sixel sequence of an image, in bands of six pixel rows per color."""
    image = image.quantize(_SIXEL_COLORS)
    width, height = image.size
    pixels = np.asarray(image).tolist()
    palette = image.getpalette("RGB") or []
    lines = [f'\x1bPq"1;1;{width};{height}']
    for color in range(len(palette) // 3):
        levels = palette[3 * color : 3 * color + 3]
        red, green, blue = (100 * level // 255 for level in levels)
        lines.append(f"#{color};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        # Color → for each column, a bit mask of the rows that have the color.
        band: dict[int, bytearray] = {}
        for y in range(top, min(top + 6, height)):
            for x in range(width):
                columns = band.setdefault(pixels[y][x], bytearray(width))
                columns[x] |= 1 << (y - top)
        drawn_colors = []
        for color, columns in band.items():
            text = "".join(chr(63 + bits) for bits in columns)
            drawn_colors.append(f"#{color}{text}")
        lines.append("$".join(drawn_colors) + "-")
    return "".join(lines) + "\x1b\\"

"""Rendering of SVG drawings in a separate process with limits.

A drawing cannot load other files.
"""

import dataclasses
import functools
import importlib.util
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zlib

from PIL import Image

from align_keras.utils.errors import ImageError

# Reason for leaving out a drawing if the extra `svg` is not installed.
NO_RENDERER = "SVG, which needs resvg-py"
# Pixels. Larger drawings are rendered at this width or height.
MAX_SVG_SIDE = 2048
MAX_SVG_BYTES = 8_000_000
_MAX_ELEMENTS = 50_000
_MAX_DEPTH = 100
_SVG = "{http://www.w3.org/2000/svg}svg"
# Pixels per CSS unit. If a length is a percentage or has an unknown unit, the size
# comes from the `viewBox`.
_PIXELS = {"": 1, "px": 1, "pt": 4 / 3, "pc": 16, "in": 96, "cm": 96 / 2.54}
_PIXELS |= {"mm": 96 / 25.4, "em": 16, "ex": 8}
_LENGTH = re.compile(r"\s*\+?(\d{0,9}\.?\d{1,9}(?:e[+-]?\d)?)\s*([a-z]*)\s*$", re.I)
# Pixels, (width, height). Browsers use this size for a drawing without any size.
_DEFAULT_SIZE = (300.0, 150.0)
# Seconds of processor time.
_MAX_CPU_SECONDS = 10
# Seconds. Timeout for systems that cannot limit the processor time of a process.
RENDER_TIMEOUT = 60
# Python program that renders a drawing. It runs in a separate process, because a deeply
# nested or large drawing can crash the process.
RENDER_PROGRAM = f"""
import sys
try:
    import resource
    for name, limit in (("CPU", {_MAX_CPU_SECONDS}), ("AS", 2 << 30), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
except (ImportError, OSError, ValueError):
    pass
import resvg_py
drawing = sys.stdin.buffer.read().decode()
fonts = dict(word.split("=", 1) for word in sys.argv[1:])
sys.stdout.buffer.write(bytes(resvg_py.svg_to_bytes(svg_string=drawing, **fonts)))
"""


def _svg_error(problem: str) -> ImageError:
    return ImageError("unreadable", f"SVG: {' '.join(problem.split())}")


@dataclasses.dataclass(frozen=True)
class SvgDrawing:
    """SVG drawing that can be rendered.

    Attributes:
        size: tuple of int (width, height), size in pixels.
        content: XML without links to other files.
    """

    size: tuple
    content: bytes

    def render(self) -> Image.Image:
        """Renders the drawing in a separate process.

        The process has at most 10 seconds of processor time and 2 GiB of memory.

        Returns:
            `PIL.Image.Image`, RGBA.

        Raises:
            ImageError: if the process fails.
        """
        try:
            completed = subprocess.run(
                [sys.executable, "-c", RENDER_PROGRAM, *_fonts()],
                input=self.content,
                capture_output=True,
                timeout=RENDER_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _svg_error(
                f"rendering takes more than {RENDER_TIMEOUT} seconds"
            ) from None
        if completed.returncode:
            lines = completed.stderr.decode("utf-8", "replace").split("\n")
            reason = " ".join([line for line in lines if line.strip()][-1:])
            raise _svg_error(
                "rendering failed: "
                f"{reason[:200] or f'exit code {completed.returncode}'}"
            )
        return Image.open(io.BytesIO(completed.stdout)).convert("RGBA")


@functools.cache
def _fonts() -> list[str]:
    """Returns the fonts of the system as arguments of `RENDER_PROGRAM`."""
    # Without these arguments, resvg omits letters.
    arguments = []
    for name in ("serif", "sans-serif", "monospace"):
        try:
            completed = subprocess.run(
                ["fc-match", "--format=%{family[0]}", name],
                capture_output=True,
                text=True,
                timeout=RENDER_TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return []
        arguments.append(f"{name.replace('-', '_')}_family={completed.stdout.strip()}")
    return arguments


@functools.cache
def has_renderer() -> bool:
    """Returns True if the extra `svg` is installed."""
    return importlib.util.find_spec("resvg_py") is not None


def read_svg(content: bytes) -> "SvgDrawing | None":
    """Parses an SVG drawing.

    Args:
        content: bytes of a file, which may be compressed with gzip.

    Returns:
        `SvgDrawing`, or None if the file is not an SVG drawing.

    Raises:
        ImageError: if the drawing is damaged or too large.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(wbits=31).decompress(
                content, MAX_SVG_BYTES + 1
            )
        except zlib.error:
            return None
    if not _seems_svg(content):
        return None
    if len(content) > MAX_SVG_BYTES:
        raise _svg_error(f"more than {MAX_SVG_BYTES:,} bytes")
    root = _parse(content)
    if root.tag != _SVG:
        return None
    width, height = _size(root)
    scale = min(1.0, MAX_SVG_SIDE / max(width, height))
    if "viewBox" not in root.attrib:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    size = tuple(max(1, round(side * scale)) for side in (width, height))
    for name, side in zip(("width", "height"), size, strict=True):
        root.set(name, str(side))
    return SvgDrawing(size, ElementTree.tostring(root))


def _seems_svg(content: bytes) -> bool:
    start = content[:65_536]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16.
        start = start.replace(b"\0", b"")
    return start.lstrip(b"\xef\xbb\xbf\xff\xfe\t\r\n ")[:1] == b"<" and b"svg" in start


def _parse(content: bytes) -> ElementTree.Element:
    """Parses XML and removes the links to other files. Returns the root element."""
    depth = count = 0
    element = ElementTree.Element("")
    try:
        for event, element in ElementTree.iterparse(
            io.BytesIO(content), ("start", "end")
        ):
            if event == "end":
                depth -= 1
                continue
            depth, count = depth + 1, count + 1
            if depth > _MAX_DEPTH or count > _MAX_ELEMENTS:
                raise _svg_error(
                    f"more than {_MAX_DEPTH} nested or {_MAX_ELEMENTS:,} total elements"
                )
            for name in [key for key in element.attrib if key.endswith("href")]:
                if not element.attrib[name].startswith(("#", "data:")):
                    del element.attrib[name]
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, ImageError):
            raise
        raise _svg_error(f"broken XML: {error}") from None
    # The last event is the end of the root element.
    return element


def _size(root: ElementTree.Element) -> tuple[float, float]:
    """Returns the width and height in pixels that a browser would use."""
    width, height = (_pixels(root.get(name)) for name in ("width", "height"))
    box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
    box_width = box_height = None
    if len(box) == 4:
        box_width, box_height = _pixels(box[2]), _pixels(box[3])
    if box_width is None or box_height is None:
        root.attrib.pop("viewBox", None)
    if width and height:
        return width, height
    if box_width is None or box_height is None:
        return width or _DEFAULT_SIZE[0], height or _DEFAULT_SIZE[1]
    aspect = box_width / box_height
    if width:
        return width, width / aspect
    if height:
        return height * aspect, height
    return box_width, box_height


def _pixels(length: str | None) -> float | None:
    """Converts a length to pixels. Returns None if it is invalid or not above 0."""
    match = _LENGTH.match(length or "")
    factor = _PIXELS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        return None
    return float(match[1]) * factor or None

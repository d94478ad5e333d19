"""Pages of the documentation, and their code blocks, inline code and links."""

import pathlib
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "pages"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    ROOT / "saved_models" / "README.md",
    ROOT / "saved_models" / "align_small_en" / "README.md",
    *sorted(SITE.rglob("*.md")),
]
# Blocks in items of lists are indented.
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
# Images inside links too.
_IMAGE = re.compile(r"!\[[^\[\]]*\]\((?P<target>[^()\s]+)\)")
_HTML = re.compile(r"<\w+\s[^>]*?(?:src|href)=\"(?P<target>[^\"]+)\"")
_HEADING = re.compile(r"^#+ +(?P<title>.+?) *#*$", re.MULTILINE)
_ATTRIBUTES = re.compile(r" *\{[^}]*\} *$")
_EXTERNAL = re.compile(r"[a-z]+:")


class Block(NamedTuple):
    """Code block of a page. The language is "" if the page doesn't give one."""

    language: str
    text: str


def read_page(path: pathlib.Path) -> str:
    """Returns the text of a page."""
    return path.read_text(encoding="utf-8")


def code_blocks(text: str) -> list[Block]:
    """Returns the code blocks of a page."""
    return [
        Block(match["language"], textwrap.dedent(match["text"]))
        for match in FENCE.finditer(text)
    ]


def _prose(text: str) -> str:
    """Returns the text of a page without its code blocks."""
    return FENCE.sub("", text)


def inline_codes(text: str) -> list[str]:
    """Returns all `inline code`, with spaces instead of line breaks."""
    return [" ".join(code.split()) for code in re.findall("`([^`]+)`", _prose(text))]


def links(text: str) -> list[str]:
    """Returns the targets of links and images that are not addresses."""
    plain = re.sub(r"<!--.*?-->", "", re.sub("`[^`]*`", "", _prose(text)), flags=re.S)
    targets = {
        match["target"]
        for pattern in (_LINK, _IMAGE, _HTML)
        for match in pattern.finditer(plain)
    }
    return sorted(target for target in targets if not _EXTERNAL.match(target))


def headings(text: str) -> Iterator[str]:
    """Yields the titles of the headings of a page, without formatting."""
    for match in _HEADING.finditer(_prose(text)):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["title"])
        yield re.sub("[`*]", "", _ATTRIBUTES.sub("", title))


def github_anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page on GitHub."""
    slugs = []
    for title in headings(text):
        slugs.append(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return _numbered(slugs, "-")


def site_anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page on the site.

    The site gives them to headings by `markdown.extensions.toc`.
    """
    slugs = []
    for title in headings(text):
        ascii_title = title.encode("ascii", "ignore").decode()
        words = re.sub(r"[^\w\s-]", "", ascii_title).strip().lower()
        slugs.append(re.sub(r"[-\s]+", "-", words))
    return _numbered(slugs, "_")


def _numbered(slugs: list[str], separator: str) -> set[str]:
    """Adds a number to repeated slugs."""
    anchors: set[str] = set()
    counts: dict[str, int] = {}
    for slug in slugs:
        count = counts.get(slug, 0)
        anchors.add(f"{slug}{separator}{count}" if count else slug)
        counts[slug] = count + 1
    return anchors

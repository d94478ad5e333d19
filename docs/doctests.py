"""Converts docstrings for the site: doctests to code, other sections to text."""

import re
import textwrap

import griffe

# Sections that are not part of Google's style. Their text is indented or not.
_SECTION = re.compile(
    r"^(Example|References|Call arguments):\n((?:\n?(?:    .*\n?)+)?)", re.MULTILINE
)
_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Adds fences around doctests, and titles to the additional sections."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            text = _SECTION.sub(_as_text, obj.docstring.value + "\n")
            obj.docstring.value = _DOCTEST.sub(r"```pycon\n\g<0>\n```", text)


def _as_text(match):
    title, body = match[1], textwrap.dedent(match[2].lstrip("\n"))
    if title == "Call arguments":
        body = re.sub(r"^(\w+): ", r"- `\1`: ", body, flags=re.MULTILINE)
    return f"**{title}**\n\n{body}\n"

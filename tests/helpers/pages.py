"""A parser of HTML pages for tests, and images to show on the pages."""

import html.parser

import numpy as np

# Elements without an end tag.
VOID = {"meta", "link", "img"}


class Page(html.parser.HTMLParser):
    """Parsed HTML page. Raises an error if an element isn't closed.

    Attributes:
        elements: List of (tag, dict of attributes).
        words: Pieces of text.
    """

    def __init__(self, content):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    @property
    def text(self):
        """Text of the page without tags."""
        return " ".join(word for word in self.words if word)

    def attributes(self, tag):
        """Returns the attributes of all elements with a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def gray_image(level):
    return np.full((16, 16, 3), level, np.uint8)

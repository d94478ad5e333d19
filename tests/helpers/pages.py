"""Pages that tests look at, and images to put on them."""

import html.parser

import numpy as np

VOID = {"meta", "link", "img"}


class Page(html.parser.HTMLParser):
    """Every element with its attributes, and a check that all are closed."""

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
        return " ".join(word for word in self.words if word)

    def attributes(self, tag):
        return [own for name, own in self.elements if name == tag]


def picture(level):
    return np.full((16, 16, 3), level, np.uint8)

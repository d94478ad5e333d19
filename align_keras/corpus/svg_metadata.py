"""What an SVG drawing says of itself: title, description, keywords, authors."""

import dataclasses
import xml.etree.ElementTree as ElementTree

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@dataclasses.dataclass(frozen=True)
class SvgMetadata:
    """The Dublin Core metadata of one drawing; what is absent is empty."""

    title: str = ""
    description: str = ""
    keywords: tuple = ()
    authors: tuple = ()


def read_svg_metadata(path):
    """Reads the first RDF work description of an SVG file.

    Reading stops where the description ends, so a drawing that is broken
    behind it still counts. The parser, expat through the standard library,
    resolves no external entities and limits the growth of internal ones.

    Args:
        path: str or path.

    Returns:
        `SvgMetadata`, empty where the drawing has none or is broken before it.

    Raises:
        OSError: the file can't be read.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cat.svg"
    >>> _ = path.write_text(
    ...     '<svg xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    ...     '<dc:title>A cat</dc:title></metadata><path')
    >>> read_svg_metadata(path).title
    'A cat'
    """
    with open(path, "rb") as file:
        try:
            for _, element in ElementTree.iterparse(file):
                name = str(element.tag).rpartition("}")[2]
                if name in ("Work", "metadata"):
                    return _from_element(element)
        except ElementTree.ParseError:
            return SvgMetadata()
    return SvgMetadata()


def _from_element(element):
    def texts(pattern):
        found = (child.text for child in element.iterfind(pattern))
        return tuple(" ".join(text.split()) for text in found if text)

    def first(pattern):
        return next(iter(texts(pattern)), "")

    return SvgMetadata(
        title=first(f"{_DUBLIN_CORE}title"),
        description=first(f"{_DUBLIN_CORE}description"),
        keywords=texts(f"{_DUBLIN_CORE}subject//{_RDF}li"),
        authors=texts(f"{_DUBLIN_CORE}creator//{_DUBLIN_CORE}title"),
    )

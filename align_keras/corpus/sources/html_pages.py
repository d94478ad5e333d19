"""Kind `html`: a folder of web pages, or one page, and the pictures beside them.

Pictures on relative addresses are files: `%20` and the like are decoded, and what
follows `?` is cut. An address that begins with `/` means the machine's root or, where
there is nothing, the source's folder, as in a site that was copied whole.
"""

import os
import pathlib

from align_keras.corpus.page_process import PageError, read_page
from align_keras.corpus.sources.location import path_location, url_path
from align_keras.corpus.sources.part import Part
from align_keras.corpus.sources.source_files import group_files, read_whole, where
from align_keras.corpus.sources.source_pair import SourcePair

SUFFIXES = (".html", ".htm", ".xhtml")


def list_parts(kind, root, files, options):
    """Shares the pages out, up to 200 a part."""
    return [Part(kind, root, names) for names in group_files(files)]


def read(part, counter):
    """Yields the pairs of a part's pages, page by page."""
    for name in part.files:
        path = os.path.join(part.root, name)
        content = read_whole(path, counter)
        if content is None:
            continue
        try:
            pairs = read_page(content, pathlib.Path(path).as_uri(), counter)
        except PageError as error:
            counter.drop("malformed page", where(path), str(error))
            continue
        for own in pairs:
            image = _picture_location(own.image_url, part.root)
            yield SourcePair(image, own.caption, own.rule, own.language, own.page_url)


def _picture_location(url, root):
    if not url[:5].lower() == "file:":
        return url
    path = url_path(url)
    if not os.path.exists(path):
        below = os.path.join(root, path.lstrip("/"))
        path = below if os.path.exists(below) else path
    return path_location(path)

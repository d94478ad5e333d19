"""Sources of the kind `html`: web pages with their images.

An address that begins with `/` refers to the folder of the source. An image is dropped
if its file, after symbolic links are resolved, is not below that folder. Otherwise, a
downloaded page could add private images of this machine to the corpus.
"""

import os
import pathlib
from collections.abc import Iterator
from urllib.parse import quote

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.opt_out import HONOR_OPT_OUT
from align_keras.corpus.page_process import PageError, read_page
from align_keras.corpus.sources.location import is_remote, path_location, url_path
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
)
from align_keras.corpus.sources.source_files import grouped_files, read_whole
from align_keras.utils.addresses import is_url
from align_keras.utils.remote import join_url


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a part, page by page."""
    honor_opt_out = HONOR_OPT_OUT in part.options
    for name in part.files:
        path = os.path.join(part.root, name)
        content = read_whole(path, counter)
        if content is None:
            continue
        try:
            pairs = read_page(
                content,
                _address(path, name),
                counter,
                honor_opt_out=honor_opt_out,
                any_caption=EVALUATION in part.options,
            )
        except PageError as error:
            counter.drop("malformed page", path, str(error))
            continue
        for pair in pairs:
            image = _image_location(pair.image_url, part.root)
            if image is None:
                counter.drop("outside the source", path, pair.image_url[:200])
                continue
            page_url = path if is_url(path) else pair.page_url
            yield SourcePair(*pair)._replace(image=image, page_url=page_url)


def _address(path: str, name: str) -> str:
    """Returns the address of a page, to which its relative addresses refer."""
    if is_remote(path):
        return path
    # In an object store, the folder of the source is the root of the addresses.
    return f"file:///{quote(name)}" if is_url(path) else pathlib.Path(path).as_uri()


def _image_location(url: str, root: str) -> str | None:
    """Returns the location of an image, or None if it is not below the source."""
    if not url[:5].lower() == "file:":
        return url
    path = url_path(url)
    if "\0" in path:
        return None
    if is_url(root):
        return join_url(root, os.path.normpath(f"/{path}").lstrip("/"))
    if not _is_below(path, root):
        path_in_source = os.path.join(root, path.lstrip("/"))
        if os.path.lexists(path) and not os.path.exists(path_in_source):
            return None
        path = path_in_source
    return path_location(path) if _is_below(path, root) else None


def _is_below(path: str, folder: str) -> bool:
    folder = os.path.join(os.path.realpath(folder), "")
    return os.path.realpath(path).startswith(folder)


HTML_PAGES = SourceKind(
    suffixes=(".html", ".htm", ".xhtml"),
    list_parts=grouped_files,
    read=_read_part,
)

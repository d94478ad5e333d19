"""Tests of malicious pages, which exceed the time or the memory of the parser."""

import os
import pathlib
import signal
import sys

import pytest

from align_keras.corpus import page_process
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.page_process import PageError, read_page

pytest.importorskip("selectolax")

PAGE = "https://example.org/"
IMAGE = "<img src=a.png alt=x>"
IMAGES = "".join(f"<img src={number}.png alt=x{number}>" for number in range(1_000))
# Long pages that are parsed completely within the time limit.
LONG_PAGES = {
    "srcset": f"<img srcset='{' ' * 300_000}'>" + IMAGE,
    "srcset of addresses": f"<picture><source srcset='{'a 1w,' * 50_000}'>" + IMAGES,
    "images in elements": "<i>".join([IMAGE] * 7_000),
    "figcaption": f"<figure><figcaption>{'a ' * 500_000}</figcaption>" + IMAGES,
    "machine names": "".join(
        f"<img src=a.png alt='{'_' * 1_990}{number}!'>" for number in range(300)
    )
    + IMAGE,
}
# A page of 20 KB for which a parser needs 1.5 GB if it follows the HTML standard.
BOMB = "<p>" + "".join(f"<b a={number}>" for number in range(2_000)) + "</p>"
BOMB += "<p>x</p>" * 2_000


def urls(html, counter=None, charset=None):
    content = html if isinstance(html, bytes) else html.encode()
    counter = DropCounter() if counter is None else counter
    return [pair.image_url for pair in read_page(content, PAGE, counter, charset)]


@pytest.mark.parametrize("kind", LONG_PAGES)
def test_long_pages_are_parsed(kind):
    counter = DropCounter()
    image_urls = urls(LONG_PAGES[kind], counter)
    last_name = "a" if kind == "srcset of addresses" else "999.png"
    assert image_urls[-1] == PAGE + (
        last_name if IMAGES in LONG_PAGES[kind] else "a.png"
    )
    assert counter.bad == ({"long caption": 1_000} if kind == "figcaption" else {})


@pytest.mark.parametrize("charset", ["punycode", "utf-7"])
def test_unusual_charsets_are_ignored(charset):
    html = f"<meta charset={charset}>{'é' * 100_000}{IMAGE}".encode()
    assert urls(html) == urls(html, charset=charset) == [PAGE + "a.png"]


@pytest.mark.ci
def test_only_a_page_that_needs_too_much_memory_is_dropped(monkeypatch):
    monkeypatch.setattr(page_process, "MAX_READER_BYTES", 100_000_000)
    with pytest.raises(PageError, match="parse|memory"):
        urls(BOMB)
    assert urls(IMAGE) == [PAGE + "a.png"]


@pytest.mark.ci
def test_only_a_page_that_takes_too_long_is_dropped(monkeypatch):
    monkeypatch.setattr(page_process, "MAX_SECONDS", 0.2)
    with pytest.raises(PageError, match="seconds"):
        urls("<div>" * 50_000 + IMAGE)
    assert urls(IMAGE) == [PAGE + "a.png"]


def reader_processes():
    """Returns the ids of the child processes that parse pages."""
    ids = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # The fields follow the name of the program in parentheses.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue  # The process has ended.
        if int(fields[1]) == os.getpid() and page_process.__name__ in command:
            ids.append(int(folder.name))
    return ids


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_is_started_again():
    assert urls(IMAGE)
    [process] = reader_processes()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(PageError, match="-9"):
        urls(IMAGE)
    assert urls(IMAGE)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_forked_child_starts_another_process():
    assert urls(IMAGE)
    child = os.fork()
    if not child:
        has_read = not reader_processes() and urls(IMAGE) and reader_processes()
        os._exit(0 if has_read else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert urls(IMAGE)

"""Tests of folders of web pages."""

import pathlib
import random
from urllib.parse import quote

import fsspec
import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.source import evaluation_source, open_source, read_part
from tests.helpers.source_case import STRANGE_NAME, SourceCase
from tests.helpers.source_reading import read_source

pytest.importorskip("selectolax")
# Folder of the manual of GIMP, or None. Its path has the version of GIMP.
MANUAL = next(pathlib.Path("/usr/share/gimp").glob("*/help/en"), None)


class TestHTML(SourceCase):
    kind = "html"
    pairs = [("A cat", "alt", "en"), ("A dog", "title", "en")]
    images = [b"cat", b"dog"]

    def write(self, folder):
        (folder / "images").mkdir()
        (folder / "images" / f"{STRANGE_NAME}.png").write_bytes(b"cat")
        (folder / "images" / "b.png").write_bytes(b"dog")
        address = quote(f"images/{STRANGE_NAME}.png")
        (folder / f"{STRANGE_NAME}.html").write_text(
            f"<html lang=EN><img src='{address}?w=50#x' alt='A cat'>"
            "<img src=/images/b.png title='A dog'>"
        )


def test_relative_absolute_and_remote_addresses_are_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.png").touch()
    (tmp_path / "sub/page.xhtml").write_text(
        "<img src=../b.png alt=1><img src=/b.png alt=2><img src=/gone/c.png alt=3>"
        "<img src=https://example.org/d.png alt=4><img src=data:,x alt=5>"
        "<img src='e f.png' title=6>"
    )
    pairs, _ = read_source(tmp_path)
    assert [pair.image for pair in pairs] == [
        str(tmp_path / "b.png"),
        str(tmp_path / "b.png"),
        str(tmp_path / "gone/c.png"),
        "https://example.org/d.png",
        "data:,x",
        str(tmp_path / "sub/e f.png"),
    ]


def test_files_outside_the_source_are_dropped(tmp_path):
    private = tmp_path / "private.png"
    private.touch()
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "sub/link.png").symlink_to(private)
    (root / "sub/within.png").symlink_to(root / "b.png")
    (root / "b.png").touch()
    addresses = [
        private.as_uri(),
        "../../private.png",
        "..%2f../private.png",
        "link.png",
        "file://localhost" + str(private),
        "%00.png",
        "within.png",
        "../b.png",
    ]
    (root / "sub/page.html").write_text(
        "".join(
            f"<img src='{address}' alt={number}>"
            for number, address in enumerate(addresses)
        )
    )
    pairs, counter = read_source(f"html:{root}")
    assert [(pair.caption, pair.image) for pair in pairs] == [
        ("6", str(root / "sub/within.png")),
        ("7", str(root / "b.png")),
    ]
    assert counter.bad == {"outside the source": 6}


def test_remote_pages_cannot_use_files_outside_their_folder():
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    fs.pipe("/secret.jpg", b"1")
    fs.pipe(
        "/b/q.html",
        b"<img src='../secret.jpg' alt='cats'><img src='memory://secret.jpg' alt='dog'>"
        b"<img src='%2e%2e/secret.jpg' alt='pigs'>"
        b"<img src=file:///etc/passwd alt=ants>",
    )
    pairs, _ = read_source("html:memory://b/q.html")
    assert {pair.image for pair in pairs} <= {
        "memory://b/secret.jpg",
        "memory://b/etc/passwd",
    }
    fs.store.clear()


def test_malformed_pages_are_read(tmp_path):
    noise = random.Random(0).randbytes(20_000)
    (tmp_path / "a.html").write_bytes(noise)
    (tmp_path / "b.html").write_bytes(b"<img src=x.png alt='A cat'" + noise)
    (tmp_path / "c.html").write_bytes(b"<p><img src=x.png alt=K\xe4se></div></p><tab")
    (tmp_path / "d.html").touch()
    (tmp_path / "e.html").write_text("<div>" * 5_000 + "<img src=x.png alt=deep>")
    pairs, counter = read_source(tmp_path)
    assert {"Käse", "deep"} <= {pair.caption for pair in pairs}
    assert not counter.bad


def test_a_page_can_opt_out(tmp_path):
    (tmp_path / "a.html").write_text("<img src=x.png alt=a>")
    meta = "<meta name=robots content=noai>"
    (tmp_path / "b.html").write_text(meta + "<img src=y.png alt=b title=c>")
    pairs, counter = read_source(tmp_path)
    assert [pair.caption for pair in pairs] == ["a"]
    assert counter.filtered == {"opted out": 2} and not counter.bad
    assert counter.examples["opted out"].startswith((tmp_path / "b.html").as_uri())
    pairs, counter = read_source(tmp_path, honor_opt_out=False)
    assert [pair.caption for pair in pairs] == ["a", "b", "c"]
    assert not counter.filtered


def test_evaluation_pages_cannot_opt_out(tmp_path):
    meta = "<meta name=robots content=noai>"
    (tmp_path / "a.html").write_text(meta + "<img src=y.png alt=b>")
    source = evaluation_source(f"html:{tmp_path}")
    [part] = source.parts()
    pairs = list(read_part(part, DropCounter()))
    assert [pair.image for pair in pairs] == [str(tmp_path / "y.png")]
    assert source.fingerprint() != open_source(f"html:{tmp_path}").fingerprint()


def test_evaluation_images_need_no_usable_caption(tmp_path):
    images = ["<img src=a.png>", "<img src=b.png alt=b.png>", "<img src=a.png alt=c>"]
    (tmp_path / "a.html").write_text("".join(images))
    [part] = evaluation_source(f"html:{tmp_path}").parts()
    pairs = list(read_part(part, DropCounter()))
    assert [pair.image for pair in pairs] == [
        str(tmp_path / name) for name in ("a.png", "b.png")
    ]


def test_bad_captions_are_counted(tmp_path):
    (tmp_path / "a.html").write_text(f"<img src=x.png alt='{'x' * 2001}' title=fine>")
    [pair], counter = read_source(tmp_path)
    assert pair.caption == "fine"
    assert counter.bad == {"long caption": 1}
    assert counter.examples["long caption"].startswith("file:///")


@pytest.mark.ci
@pytest.mark.skipif(MANUAL is None, reason="gimp-help-en isn't installed")
def test_most_images_of_the_gimp_manual_are_found():
    source = open_source(f"html:{MANUAL}")
    pairs = list(read_part(source.parts()[0], DropCounter()))
    image_exists = [pathlib.Path(pair.image).is_file() for pair in pairs]
    assert len(pairs) > 100 and sum(image_exists) > 0.95 * len(image_exists)

"""Tests of sources in object stores, which give the same pairs as local sources."""

import io
import json
import pathlib

import fsspec
import pytest
from PIL import Image
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_location, read_part
from align_keras.corpus.sources.source_files import count_os_error
from align_keras.utils import remote
from align_keras.utils.errors import ImageError, InputError
from tests.helpers.source_reading import IMG2DATASET, read_source


@pytest.fixture
def store():
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    remote.clear_caches()
    yield fs
    fs.store.clear()


def copy_and_compare(store, folder, kind, name=""):
    """Copies a folder to a store and checks that the pairs and images are the same.

    Args:
        store: file system of the store.
        folder: path of the local folder.
        kind: str, kind of the source.
        name: str, path of the source relative to the folder.
    """
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            store.pipe(f"/b/{path.relative_to(folder)}", path.read_bytes())
    local_pairs, local_counter = read_source(f"{kind}:{pathlib.Path(folder, name)}")
    remote_pairs, remote_counter = read_source(f"{kind}:memory://b/{name}")
    assert len(local_pairs) > 1 and remote_counter.bad == local_counter.bad
    for local, remote_pair in zip(local_pairs, remote_pairs, strict=True):
        assert remote_pair.caption == local.caption
        is_remote = "memory://b/" in remote_pair.image
        assert is_remote or remote_pair.image == local.image
        if "://e.org" not in local.image:
            assert read_location(remote_pair.image) == read_location(local.image)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "tfrecord"])
def test_shards_are_read_from_a_store(store, kind):
    copy_and_compare(store, IMG2DATASET / kind, kind)
    assert open_source("memory://b").kind == kind


def create_images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9 + number)).save(folder / name)


def test_folders_tables_and_json_files_are_read_from_a_store(store, tmp_path):
    create_images(tmp_path, "img/a b.jpg", "img/c#.jpg")
    (tmp_path / "img/a b.txt").write_text("A cat\nA red cat")
    (tmp_path / "img/c#.txt").write_text("A dog")
    copy_and_compare(store, tmp_path, "folder")
    (tmp_path / "t.csv").write_text(
        "image,caption\nimg/a b.jpg,One cat\nimg/c#.jpg,b c"
    )
    copy_and_compare(store, tmp_path, "table", "t.csv")
    content = {
        "images": [{"id": 1, "file_name": "a b.jpg"}, {"id": 2, "file_name": "c#.jpg"}],
        "annotations": [{"image_id": n, "caption": f"cat {n}"} for n in (1, 2)],
    }
    (tmp_path / "img/c.json").write_text(json.dumps(content))
    copy_and_compare(store, tmp_path, "coco", "img/c.json")
    store.mv("/b/img/c.json", "/b/c.json")
    with pytest.raises(InputError, match=r"images of memory://b/c\.json.*images=DIR"):
        open_source("memory://b/c.json").parts()
    [part] = open_source("coco:memory://b/c.json?images=memory://b/img").parts()
    [pair, _] = read_part(part, DropCounter())
    assert pair.image == "memory://b/img/a b.jpg"


def test_pages_cannot_use_files_outside_their_folder(store, tmp_path):
    create_images(tmp_path, "img/a b.jpg", "sub/c.jpg")
    (tmp_path / "sub/p.html").write_text(
        "<img src='../img/a%20b.jpg' alt='A cat'><img src='c.jpg' alt='A dog'>"
        "<img src='/img/a%20b.jpg' alt='Cat'><img src='http://e.org/x.jpg' alt='A x'>"
    )
    copy_and_compare(store, tmp_path, "html")
    store.pipe("/secret.jpg", b"1")
    store.pipe(
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
    with pytest.raises(ImageError, match="no file memory://b/secret.jpg"):
        read_location("memory://b/secret.jpg")


def test_web_archives_are_read_from_a_store(store, tmp_path):
    with open(tmp_path / "a.warc.gz", "wb") as file:
        writer = WARCWriter(file)
        for url, media_type, body in (
            ("http://e.org/p", "text/html", b"<img src=a.jpg alt='A cat'>"),
            ("http://e.org/q", "text/html", b"<img src=b.jpg alt='A dog'>"),
            ("http://e.org/a.jpg", "image/jpeg", b"cat"),
        ):
            headers = StatusAndHeaders(
                "200 OK", [("Content-Type", media_type)], "HTTP/1.0"
            )
            writer.write_record(
                writer.create_warc_record(
                    url, "response", payload=io.BytesIO(body), http_headers=headers
                )
            )
    copy_and_compare(store, tmp_path, "warc")


def test_a_changed_or_removed_file_is_counted_as_vanished(store):
    store.pipe("/b/a.csv", b"image,caption\na.jpg,cat\nb.jpg,dog")
    source = open_source("table:memory://b/a.csv")
    [part] = source.parts()
    old_fingerprint = source.fingerprint()
    store.pipe("/b/a.csv", b"image,caption\na.jpg,cat")
    assert source.fingerprint() != old_fingerprint
    counter = DropCounter()
    assert not list(read_part(part, counter)) and counter.bad == {"vanished": 1}
    store.rm("/b/a.csv")
    counter = DropCounter()
    assert not list(read_part(part, counter)) and counter.bad == {"vanished": 1}


@pytest.mark.parametrize(
    "spec",
    [
        "webdataset:memory://none",
        "webdataset:abfs://a/b.tar",
        "tfds:gs://a/b:train",
    ],
)
def test_unreadable_sources_raise_an_error(store, spec):
    with pytest.raises(InputError, match="none|abfs|gs://a/b"):
        open_source(spec)


def test_missing_permissions_are_permanent_only_for_local_files():
    # The credentials of a store can expire during a build.
    counter = DropCounter()
    for path in ("s3://b/a.tar", "/b/a.tar"):
        count_os_error(counter, path, PermissionError(13, "permission denied"))
    assert counter.bad == {"vanished": 1, "unreadable": 1}

"""Reads of files on object stores and web servers, with retries and errors."""

import errno
import io
import os

import fsspec
import pytest

from align_keras.utils import remote, remote_requests
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular, size_of
from tests.helpers.web_server import WebServer

CONTENT = os.urandom(1_000_003)


@pytest.mark.parametrize(
    "folder, name, expected",
    [
        ("https://h/tables", "a.png", "https://h/tables/a.png"),
        ("https://h/tables/", "../images/a.png", "https://h/images/a.png"),
        ("https://h", "../127.0.0.1:8080/a.png", "https://h/127.0.0.1:8080/a.png"),
        ("https://h/tables", "//other/a.png", "https://h/other/a.png"),
        ("s3://bucket/a/b", "../../../other/a.png", "s3://bucket/other/a.png"),
    ],
)
def test_joined_addresses_stay_on_their_server(folder, name, expected):
    assert remote.join_url(folder, name) == expected


@pytest.fixture
def memory(monkeypatch):
    """Empty in-process file system of fsspec, with pauses of 0 seconds."""
    monkeypatch.setattr(remote_requests, "FIRST_PAUSE", 0.0)
    remote.clear_caches()
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.mark.parametrize("block", [1 << 16, 1 << 22])
def test_a_remote_file_reads_like_a_local_file(memory, monkeypatch, block):
    monkeypatch.setattr(remote, "BLOCK_BYTES", block)
    memory.pipe("/a/b.bin", CONTENT)
    local_file, remote_file = io.BytesIO(CONTENT), remote.open_url("memory://a/b.bin")
    assert size_of(remote_file) == len(CONTENT)
    steps = [
        (5, 10),
        (0, 70_000),
        (999_999, 100),
        (65_530, 12),
        (2_000_000, 1),
        (3, -1),
    ]
    for position, size in steps:
        assert remote_file.seek(position) == local_file.seek(position)
        assert remote_file.read(size) == local_file.read(size)
    assert read_regular("memory://a/b.bin") == CONTENT
    with pytest.raises(OSError) as caught:
        read_regular("memory://a/b.bin", limit=len(CONTENT) - 1)
    assert caught.value.errno == errno.EFBIG


def test_cached_ranges_need_no_request(memory, monkeypatch):
    memory.pipe("/a.bin", CONTENT)
    remote.open_url("memory://a.bin").read()
    monkeypatch.setattr(type(memory), "cat_file", None)
    assert remote.read_url("memory://a.bin", 70, 9) == CONTENT[70:79]


def test_folders_are_listed_by_name_without_hidden_files(memory):
    for name in ("b/c.TAR", "a.tar", ".x/a.tar", ".a.tar", "a.txt"):
        memory.pipe(f"/tars/{name}", b"1")
    names = [file.name for file in remote.list_url("memory://tars/", ".tar")]
    assert names == ["a.tar", "b/c.TAR"]
    assert remote.stat_url("memory://tars") is None
    assert remote.list_url("memory://nothing") == []


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (TimeoutError("slow"), errno.EHOSTUNREACH),
        (ConnectionResetError("reset"), errno.EHOSTUNREACH),
        (FileNotFoundError("x"), errno.ENOENT),
        (PermissionError("x"), errno.EACCES),
        (FileExistsError("x"), errno.EEXIST),
        (ValueError("odd"), errno.EINVAL),
    ],
)
def test_errors_name_the_address(memory, error, number):
    def call():
        raise error

    with pytest.raises(OSError) as caught:
        remote_requests.send(call, "memory://a")
    assert (caught.value.errno, caught.value.filename) == (number, "memory://a")


def test_an_unsupported_scheme_is_refused():
    with pytest.raises(InputError, match="ftp://a/b"):
        remote.open_url("ftp://a/b")
    assert not remote.is_url("file:///a") and not remote.is_url("postgresql:x")


@pytest.fixture
def web(memory, monkeypatch):
    monkeypatch.setattr(remote_requests, "STALL_SECONDS", 0.5)
    remote.clear_caches()
    with WebServer({"a.bin": CONTENT}) as server:
        yield server
    remote.clear_caches()


@pytest.mark.ci
@pytest.mark.parametrize(
    "faults",
    [["500", "429"], ["stall"], ["ok", "break", "503"]],
)
def test_a_file_is_read_completely_from_a_faulty_web_server(web, faults, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 18)
    web.faults = list(faults)
    file = remote.open_url(f"{web.url}/a.bin")
    assert file.read(10) + file.read() == CONTENT
    assert not web.faults
    remote.clear_caches()
    web.faults = list(faults)
    assert remote.read_url(f"{web.url}/a.bin", 500_000, 400) == CONTENT[500_000:500_400]


@pytest.mark.ci
def test_a_web_file_that_changes_during_a_read_raises_an_error(web, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 17)
    file = remote.open_url(f"{web.url}/a.bin")
    file.read(10)
    web.files["a.bin"] = CONTENT[::-1]
    with pytest.raises(OSError, match="changed"):
        file.read()


@pytest.mark.ci
def test_refused_requests_raise_the_matching_error(web):
    with pytest.raises(FileNotFoundError):
        remote.open_url(f"{web.url}/none")
    with pytest.raises(OSError, match="list"):
        remote.list_url(web.url)
    web.faults = ["403"]
    with pytest.raises(PermissionError, match="denied"):
        remote.open_url(f"{web.url}/a.bin").read()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("file:///etc/passwd", "http"),
        ("loop", "10 times"),
        ("http://localhost:{other}/a.bin", "local network"),
        ("http://[::ffff:127.0.0.1]:{other}/a.bin", "local network"),
        ("http://2130706433:{other}/a.bin", "local network"),
        ("http://169.254.169.254/latest/meta-data", "local network"),
    ],
)
def test_unsafe_redirects_are_refused(web, target, problem):
    with WebServer({"a.bin": CONTENT}) as other:
        web.redirects["loop"] = target.format(other=other.server_port)
        with pytest.raises(OSError) as caught:
            remote.open_url(f"{web.url}/loop")
        assert not other.requests
    assert caught.value.errno == errno.EINVAL
    assert problem in caught.value.strerror


@pytest.mark.ci
def test_a_redirect_on_the_same_server_is_followed(web):
    web.redirects |= {"first": "/second", "second": f"{web.url}/a.bin"}
    assert remote.open_url(f"{web.url}/first").read() == CONTENT
    assert remote.read_url(f"{web.url}/first") == CONTENT


@pytest.mark.ci
@pytest.mark.parametrize("read", [remote.read_url, read_regular])
def test_incomplete_responses_raise_an_error(web, monkeypatch, read):
    monkeypatch.setattr(remote_requests, "TRIES", 2)
    web.short.add("a.bin")
    with pytest.raises(OSError, match="incomplete") as caught:
        for _ in range(9):
            read(f"{web.url}/a.bin")
    assert caught.value.errno == errno.EIO


@pytest.mark.ci
def test_addresses_of_an_unreachable_server_are_requested_once(web):
    def count_requests(name):
        before = len(web.requests)
        with pytest.raises(OSError, match="reached") as caught:
            remote.open_url(f"{web.url}/{name}")
        assert caught.value.errno == errno.EHOSTUNREACH
        # Each try sends HEAD and GET.
        return (len(web.requests) - before) // 2

    web.down |= {"b.bin", "c.bin"}
    assert count_requests("b.bin") == remote_requests.TRIES
    assert count_requests("c.bin") == 1
    remote.open_url(f"{web.url}/a.bin").read(1)
    assert count_requests("c.bin") == remote_requests.TRIES


@pytest.mark.ci
@pytest.mark.parametrize("url", ["https://[bad/t.csv", "http://h:99999/t.csv"])
def test_an_invalid_address_is_refused(url):
    for read in (remote.read_url, remote.open_url, remote.stat_url):
        with pytest.raises(FileNotFoundError) as caught:
            read(url)
        assert caught.value.filename == url

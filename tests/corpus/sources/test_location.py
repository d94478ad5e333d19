"""Tests of locations of images and of reading images by their location."""

import base64
import os
import tarfile

import pytest

from align_keras.corpus.sources.location import (
    is_from_web,
    is_remote,
    member_location,
    path_location,
    read_location,
    url_path,
)
from align_keras.utils.errors import ImageError
from tests.helpers.source_case import STRANGE_NAME


def reason_of(location):
    with pytest.raises(ImageError) as error_info:
        read_location(location)
    assert "\n" not in error_info.value.detail
    return error_info.value.reason


def test_files_can_have_unusual_names(tmp_path):
    path = tmp_path / f"{STRANGE_NAME}.jpg"
    path.write_bytes(b"0123456789")
    assert read_location(path_location(str(path))) == b"0123456789"
    assert read_location(path.as_uri()) == b"0123456789"
    assert read_location(member_location("bytes", (3, 4), str(path))) == b"3456"
    assert url_path(path.as_uri()) == str(path)


def test_file_names_may_be_invalid_in_utf8(tmp_path):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe4 \xff.jpg"))
    with open(path, "wb") as file:
        file.write(b"cat")
    location = path_location(path)
    location.encode("utf-8")
    assert read_location(location) == b"cat"
    assert read_location(member_location("bytes", (1, 2), path)) == b"at"
    assert reason_of(path_location("/nowhere/\ud800.jpg")) == "missing"


def test_a_member_of_a_tar_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 700)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a", "a")
        tar.add(tmp_path / "b", "b")
    with tarfile.open(tmp_path / "x.tar") as tar:
        member = tar.getmember("b")
    span = (member.offset_data, member.size)
    location = member_location("bytes", span, str(tmp_path / "x.tar"))
    assert read_location(location) == b"b" * 700


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"?&#%,;"])
def test_data_addresses_are_decoded(content):
    text = base64.b64encode(content).decode()
    quoted = "".join(f"%{byte:02X}" for byte in content)
    for address in (
        f"data:image/gif;base64,{text}",
        f"DATA:;charset=x;BASE64,{text.rstrip('=')}",
        f"data:image/gif;base64,{text[:3]}%0A {text[3:]}",
        f"data:image/gif,{quoted}",
    ):
        if content:
            assert read_location(address) == content
        else:
            assert reason_of(address) == "empty"


def test_each_problem_has_a_drop_reason(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"cat")
    (tmp_path / "empty.jpg").touch()
    assert reason_of(str(tmp_path / "b.jpg")) == "missing"
    assert reason_of(str(path / "below")) == "missing"
    assert reason_of(str(tmp_path)) == "unreadable"
    assert reason_of(str(tmp_path / "empty.jpg")) == "empty"
    assert reason_of(f"bytes:1,3:{path}") == "truncated"
    assert reason_of(f"bytes:1,999999999999:{path}") == "oversized"
    assert reason_of(f"bytes:1:{path}") == "unreadable"
    assert reason_of(f"parquet:0,0,jpg:{path}") == "unreadable"
    assert reason_of(f"warc:0:{path}") == "unreadable"
    assert reason_of("data:image/gif;base64,A") == "unreadable"
    assert reason_of("https://example.org/a.jpg") == "missing"
    assert reason_of("ftp://example.org/a.jpg") == "missing"
    assert reason_of("a.jpg") == "missing"
    assert reason_of("") == "missing"


def test_only_web_addresses_are_remote():
    assert is_remote("HTTP://example.org") and is_remote("https://example.org")
    for local in ("/http://x", "data:image/gif;base64,AA==", "file:///a", "httpx:"):
        assert not is_remote(local)


def test_only_web_and_data_addresses_can_come_from_web_pages():
    assert is_from_web("DATA:,x") and is_from_web("http://x")
    assert not is_from_web("/etc/a.jpg") and not is_from_web("bytes:0,1:/etc/a")

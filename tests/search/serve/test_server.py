"""Runs `align-keras serve` as a process and tests its responses and limits."""

import contextlib
import io
import logging
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib

import pytest
from PIL import Image

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.search.image_index import Index
from align_keras.search.query.query import Query
from align_keras.search.serve import local_server
from align_keras.search.serve.local_server import MAX_BODY_BYTES
from align_keras.search.serve.search_requests import MAX_HITS
from tests.helpers.color_towers import GOLDEN, image_bytes
from tests.helpers.serving import request, running_app

pytestmark = pytest.mark.ci

COUNT = 60


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder of images of many colors, half of them in the folder Italy."""
    root = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        folder = root / ("Italy" if number % 2 else "Spain")
        folder.mkdir(exist_ok=True)
        color = (number * 4, 255 - number * 3, number * 37 % 256)
        content = image_bytes(color, (30 + number, 40), "JPEG" if number % 3 else "PNG")
        (folder / f"{number:02}.{'jpg' if number % 3 else 'png'}").write_bytes(content)
    return root


@pytest.fixture(scope="module")
def index(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return Index.build(folder, [images], str(GOLDEN))


@pytest.fixture(scope="module")
def server(index):
    """Yields the process of the server and its port."""
    with served(index.folder) as running:
        yield running


@contextlib.contextmanager
def served(folder, *options):
    command = [
        sys.executable,
        "-m",
        "align_keras.cli.main",
        "serve",
        "--index",
        str(folder),
    ]
    command += [*options, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline().decode()
        yield process, int(re.search(r"127\.0\.0\.1:(\d+)/", line)[1])
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture
def send(server):
    """Returns a function that sends a request to the server, as `request`."""

    def send_to_server(*arguments, **options):
        return request(server[1], *arguments, **options)

    return send_to_server


def ids(hits):
    return [hit["id"] if isinstance(hit, dict) else hit.id for hit in hits]


# === Responses ===


@pytest.mark.parametrize(
    "parameters",
    [
        {"text": "red", "plus": "blue", "minus": "green"},
        {"text": ["red", "blue"], "duplicates": 1},
        {"text": "green", "where": "folder like '%Italy' and width > 50"},
        {"like": [7, 30], "plus": "blue^2"},
        {"like": 7, "plus": "blue", "text_weight": 0.5},
    ],
)
def test_the_server_returns_the_same_hits_as_python(send, index, parameters):
    options = dict(parameters)
    image = options.pop("like", None)
    status, _, answer = send("/api/search", **parameters, k=20)
    expected_hits = index.query(Query(image=image, **options), k=20)
    assert status == 200 and len(expected_hits) > 5
    assert ids(answer["hits"]) == ids(expected_hits)
    for hit, expected in zip(answer["hits"], expected_hits, strict=True):
        assert hit["score"] == expected.score and hit["path"] == expected.path
        assert hit["relevance"] == expected.relevance
        assert hit["columns"] == expected.columns
        assert hit["duplicates"] == expected.duplicates


def test_an_image_in_the_body_is_a_query(send, index):
    content = image_bytes((250, 10, 30))
    _, _, answer = send("/api/search", content, plus="blue", k=9)
    expected = index.query(Query(image=content, plus="blue"), k=9)
    assert ids(answer["hits"]) == ids(expected)
    assert answer["hits"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)


def test_an_image_in_the_body_and_images_of_the_index_form_a_query(send, index):
    content = image_bytes((250, 10, 30))
    status, _, answer = send("/api/search", content, like=[7, 30], plus="blue", k=20)
    expected = index.query(Query(image=[7, 30, content], plus="blue"), k=20)
    assert status == 200 and ids(answer["hits"]) == ids(expected)
    assert answer["hits"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
    status, _, answer = send("/api/search", content, like=10**6)
    assert (status, answer) == send("/api/search", like=10**6)[::2]
    assert status == 400 and "id=1000000" in answer["error"]


def test_pages_form_the_complete_list(send, index):
    expected = ids(index.query(Query("blue", duplicates=True), k=COUNT))
    paged, has_more = [], True
    while has_more:
        parameters = {"text": "blue", "duplicates": 1, "k": 25, "offset": len(paged)}
        answer = send("/api/search", **parameters)[2]
        paged, has_more = paged + ids(answer["hits"]), answer["has_more"]
    assert paged == expected and len(expected) == COUNT


def test_a_search_without_a_query_returns_the_latest_images(send, index):
    answer = send("/api/search", where="folder like '%Italy'", k=5)[2]
    assert ids(answer["hits"]) == ids(index.latest("folder like '%Italy'", 5))
    assert ids(answer["hits"]) == sorted(ids(answer["hits"]), reverse=True)
    assert {hit["score"] for hit in answer["hits"]} == {None} and answer["has_more"]


def test_the_index_info_lists_the_columns(send, index):
    info = send("/api/index")[2]
    assert info["images"] == COUNT
    assert set(info["columns"]) == set(index.store.tables.columns)


def test_images_and_thumbnails_are_served(send, index):
    hit = index.query("red", k=1)[0]
    status, headers, content = send(f"/image/{hit.id}")
    assert (status, content) == (200, pathlib.Path(hit.path).read_bytes())
    assert headers["content-type"] in ("image/jpeg", "image/png")
    status, headers, content = send(f"/thumbnail/{hit.id}")
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and max(image.size) <= 320
    cached = {"If-None-Match": headers["etag"]}
    assert send(f"/thumbnail/{hit.id}", headers=cached)[0] == 304
    assert send(f"/image/{hit.id}", headers=cached)[0] == 304
    assert send(f"/image/{hit.id}", method="HEAD")[2] == b""


def test_the_thumbnail_of_a_photo_is_small(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(image_bytes("blue", (3000, 2000), "JPEG"))
    index = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    with running_app(index.folder) as port:
        content = request(port, "/thumbnail/1")[2]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (320, 213)


def test_formats_that_browsers_cannot_display_are_sent_as_jpeg(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.tif").write_bytes(image_bytes("red", (64, 48), "TIFF"))
    index = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    with running_app(index.folder) as port:
        _, headers, content = request(port, "/image/1")
        assert request(port, "/thumbnail/1")[0] == 200
    assert headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and image.size == (64, 48)


def test_new_images_are_found_immediately(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(image_bytes("red"))
    index = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    with running_app(index.folder) as port:
        assert len(request(port, "/api/search", text="blue")[2]["hits"]) == 1
        (folder / "b.png").write_bytes(image_bytes("blue"))
        index.add()
        hits = request(port, "/api/search", text="blue")[2]["hits"]
        assert [hit["columns"]["name"] for hit in hits] == ["b.png", "a.png"]


# === Files that are served ===


def test_only_indexed_content_is_served(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes("green"))
    for height, name in enumerate(("changed", "linked", "deleted", "unchanged"), 20):
        (folder / f"{name}.png").write_bytes(image_bytes("red", (20, height)))
    index = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    (folder / "changed.png").write_bytes(image_bytes("blue"))
    (folder / "linked.png").unlink()
    (folder / "linked.png").symlink_to(secret)
    (folder / "deleted.png").unlink()
    hits = index.query(Query("red", duplicates=True), k=9)
    status = {}
    with running_app(index.folder) as port:
        for hit in hits:
            for path in (f"/image/{hit.id}", f"/thumbnail/{hit.id}"):
                code, _, content = request(port, path)
                status.setdefault(hit.columns["name"], []).append(code)
                if code != 200:
                    message = "has changed"
                    assert re.search(message, content["error"])
    names = ("changed", "linked", "deleted")
    refused = {f"{name}.png": [410, 410] for name in names}
    assert status == {"unchanged.png": [200, 200], **refused}


@pytest.mark.parametrize(
    "path",
    [
        f"/image/{COUNT + 1}",
        f"/image/{'9' * 5_000}",
        "/image/../../../../etc/passwd",
        "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static/..%2fserver.py",
        "/docs",
    ],
)
def test_unknown_paths_are_not_found(send, path):
    status, _, answer = send(path)
    assert status == 404 and answer["error"]


def test_other_methods_are_refused(send):
    for path in ("/", "/image/1", "/api/index"):
        assert send(path, b"x")[0] == 405
    assert send("/api/search", method="DELETE")[0] == 405


# === Access ===

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Host": "LOCALHOST:9000"}, 200),
        ({"Host": "[::1]:9000", "Origin": "http://[::1]:9000"}, 200),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1", **SAME_ORIGIN}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ],
)
def test_requests_of_other_hosts_and_origins_are_refused(send, headers, status):
    for path, body in (("/api/index", None), ("/api/search", image_bytes("red"))):
        received, _, answer = send(path, body, headers=headers)
        assert received == status, answer
    assert send("/image/1", headers=headers)[0] == status


def test_links_of_other_websites_can_only_open_the_page(send):
    link_headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    status, headers, content = send("/", headers=link_headers)
    assert status == 200 and b"Find images" in content
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    embed_headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert send("/", headers=embed_headers)[0] == 403


def test_the_page_refers_to_no_other_server(send):
    for path in ("/", "/static/serve.js", "/static/serve.css", "/static/page.css"):
        text = send(path)[2].decode()
        assert set(re.findall(r"https?://[^'\"\s)]*", text)) <= {
            "http://www.w3.org/2000/svg"
        }
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", text)


# === Invalid input ===


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"txt": "red"}, "txt"),
        ({"where": "1; DROP TABLE images"}, "`where`"),
        ({"text": "red", "k": 0}, "k"),
        ({"text": "red", "offset": MAX_HITS + 1}, "offset"),
        ({"text": "red", "text_weight": "nan"}, "text_weight"),
        ({"like": COUNT + 99}, "`id`"),
        ({"like": "x"}, "like"),
        ({"text": "red", "duplicates": "yes"}, "duplicates"),
        ({"minus": "red"}, "`image`"),
        ({"text": "red", "minus": "red"}, "cancel out"),
        ({"text": "a" * 10_001}, "text"),
    ],
)
def test_invalid_parameters_are_refused(send, parameters, message):
    status, _, answer = send("/api/search", **parameters)
    assert status == 400 and message in answer["error"]


def decompression_bomb(side=60_000):
    """Returns a small PNG whose header claims billions of pixels."""

    def part(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * side * 100))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels)


@pytest.mark.parametrize(
    "body, status, message",
    [
        (b"", 400, "image"),
        (image_bytes("red", format="JPEG")[:200], 400, "image"),
        (decompression_bomb(), 400, "pixels"),
    ],
)
def test_invalid_bodies_are_refused(send, body, status, message):
    received, _, answer = send("/api/search", body, method="POST")
    assert received == status and message in answer["error"]
    assert send("/api/search", text="red")[0] == 200


def send_bytes(port, head, body=b"", step=1_000_000):
    """Sends the bytes of a request, and returns the bytes of the response.

    The server may close the connection before it has received the whole body.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
            for start in range(0, len(body), step):
                connection.sendall(body[start : start + step])
        response = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65_536):
                response += part
        return response


def test_a_request_with_two_lengths_ends_the_connection(server):
    head = b"Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    other = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    content = b"POST /v1/embeddings HTTP/1.1\r\n" + head + b"0\r\n\r\n" + other
    response = send_bytes(server[1], content)
    assert response.startswith(b"HTTP/1.1 400 ") and response.count(b"HTTP/1.1") == 1


def test_a_body_that_is_too_large_is_refused(server):
    start = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    length = b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
    assert b" 413 " in send_bytes(server[1], start + length).splitlines()[0]
    huge = b"Content-Length: %s\r\n\r\n" % (b"9" * 15)
    assert b" 413 " in send_bytes(server[1], start + huge).splitlines()[0]
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    chunks = chunk * (MAX_BODY_BYTES // 2**20 + 1)
    answer = send_bytes(
        server[1], start + b"Transfer-Encoding: chunked\r\n\r\n", chunks
    )
    assert b" 413 " in answer.splitlines()[0]
    assert request(server[1], "/api/search", text="red")[0] == 200


def memory(process):
    """Returns the peak memory of a process in megabytes."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


# === Concurrent requests ===


def test_stalled_uploads_do_not_block_other_requests(server):
    head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            address = ("127.0.0.1", server[1])
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(head)
        assert request(server[1], "/api/search", text="red")[0] == 200
        assert request(server[1], "/thumbnail/1")[0] == 200
        # The timeout of this request is shorter than that of the stalled uploads.
        upload = image_bytes("red")
        assert request(server[1], "/api/search", upload, timeout=25)[0] == 200


def test_connections_without_complete_headers_are_closed(index, monkeypatch):
    monkeypatch.setattr(local_server, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(local_server, "MAX_CONNECTIONS", 10)
    with contextlib.ExitStack() as stack:
        address = "127.0.0.1", stack.enter_context(running_app(index.folder))
        for number in range(20):
            connection = stack.enter_context(socket.create_connection(address))
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        with socket.create_connection(address, timeout=60) as refused:
            refused.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert refused.recv(1_000).startswith(b"HTTP/1.1 503 ")
        connection.settimeout(20)
        assert connection.recv(1_000) == b""
        assert request(address[1], "/api/search", text="red")[0] == 200


def test_the_total_size_of_bodies_is_limited(server):
    head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 60000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server[1])
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(head + bytes(59_999_999))
        connection = stack.enter_context(socket.create_connection(address, timeout=60))
        connection.sendall(head + bytes(59_999_999))
        assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert request(server[1], "/api/search", image_bytes("red"))[0] == 200
    assert request(server[1], "/api/search", image_bytes("red"))[0] == 200


def test_a_server_does_not_close_the_log_handlers_of_other_packages():
    class Handler(logging.StreamHandler):
        is_closed = False

        def close(self):
            self.is_closed = True
            super().close()

    handler = Handler()
    local_server.make_server(None)
    assert not handler.is_closed


def test_the_health_check_responds(send):
    assert send("/health")[::2] == (200, {"status": "ok"})


def test_an_index_of_embeddings_is_served(tmp_path):
    model = load_model(str(GOLDEN))
    options = {"folder": tmp_path / "index", "model": model}
    contents = [image_bytes("red"), image_bytes("blue", format="WEBP")]
    embeddings = model.encode_images(contents)
    Index.from_embeddings(embeddings, ["a", "b/c"], images=contents, **options)
    with running_app(tmp_path / "index") as port:
        answer = request(port, "/api/search", text="blue")[2]
        best = answer["hits"][0]
        assert (best["path"], best["columns"]["width"]) == ("b/c", 24)
        status, headers, content = request(port, best["image"])
        assert (status, headers["content-type"]) == (200, "image/webp")
        assert content == contents[1]
        assert request(port, best["thumbnail"])[0] == 200
        by_upload = request(port, "/api/search", contents[0])[2]
        assert by_upload["hits"][0]["path"] == "a"
        pathlib.Path(best["stored_image"]).write_bytes(contents[0])
        assert request(port, best["image"])[0] == 410
    Index.from_embeddings(embeddings, ["a", "b"], **options)
    with running_app(tmp_path / "index") as port:
        status, _, answer = request(port, "/thumbnail/1")
        assert status == 404 and "the image 'a'" in answer["error"]


def test_ids_from_before_a_rebuild_are_refused(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for color in ("red", "blue"):
        (folder / f"{color}.png").write_bytes(image_bytes(color))
    index = Index.build(tmp_path / "index", [folder], str(GOLDEN))
    with running_app(index.folder) as port:
        answer = request(port, "/api/search", text="red", k=1)[2]
        (hit,) = answer["hits"]
        assert request(port, hit["image"])[0] == 200
        assert request(port, hit["thumbnail"])[0] == 200
        like = {"like": hit["id"], "index": answer["index"]}
        assert request(port, "/api/search", **like)[0] == 200
        (folder / "red.png").unlink()
        Index.rebuild(index.folder)
        for path in (hit["image"], hit["thumbnail"]):
            status, _, content = request(port, path)
            assert status == 410 and "built again" in content["error"]
        assert request(port, "/api/search", **like)[0] == 410
        (hit,) = request(port, "/api/search", text="red")[2]["hits"]
        assert request(port, hit["image"])[0] == 200


def test_the_memory_for_concurrent_requests_is_limited(server, images):
    process, port = server
    photo = image_bytes((200, 30, 40), (3500, 2500))
    requests = [
        lambda: request(port, "/api/search", text="red", minus="blue"),
        lambda: request(port, "/api/search", photo + bytes(2_000_000)),
        lambda: request(port, "/image/3"),
        lambda: request(port, "/thumbnail/5"),
        lambda: request(port, "/api/search", decompression_bomb(), plus="red"),
    ]
    for send_request in requests * 2:
        send_request()
    before, statuses = memory(process), []

    def append_status(send_request):
        statuses.append(send_request()[0])

    threads = [
        threading.Thread(target=append_status, args=(send_request,))
        for send_request in requests * 16
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 80
    assert {200, 400} <= set(statuses) <= {200, 400, 503}
    assert statuses.count(400) <= 16 and statuses.count(200) >= 48
    # Each of the 16 decoded photos has 26 MB.
    assert memory(process) - before < 200
    maps = pathlib.Path(f"/proc/{process.pid}/maps").read_text()
    assert "litert" in maps and "tensorflow/" not in maps


# === Command line ===


def test_the_command_reports_errors(server, index, tmp_path, capsys):
    assert main(["serve", "--index", str(tmp_path / "none")]) == 1
    assert "align-keras index" in capsys.readouterr().err
    port = str(server[1])
    assert main(["serve", "--index", str(index.folder), "--port", port]) == 1
    assert "--port" in capsys.readouterr().err

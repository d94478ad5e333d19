"""Health, metrics, access log, token, stop and proxy of the search server."""

import base64
import concurrent.futures
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from align_keras.cli.main import main
from align_keras.search.image_index import Index
from align_keras.search.query.query import Query
from align_keras.search.serve.local_server import read_token
from align_keras.utils.errors import InputError
from tests.helpers.color_towers import GOLDEN, image_bytes
from tests.helpers.serving import request, running_app

pytestmark = pytest.mark.ci

TOKEN = "0123456789abcdef-secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
GUIDE = pathlib.Path(__file__).parents[3] / "docs/pages/guides/server.md"
# Line of the access log: the common log format, and the seconds.
LOG_LINE = re.compile(
    r'(\S+) - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "(\S+) (\S+) HTTP/1\.1" '
    r"(\d+) (\d+) (\d+\.\d{3})"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(30):
        color = (number * 8, 255 - number * 7, number * 37 % 256)
        (root / f"{number:02}.png").write_bytes(image_bytes(color))
    folder = tmp_path_factory.mktemp("index") / "index"
    return Index.build(folder, [root], str(GOLDEN))


@pytest.fixture(scope="module")
def log():
    """Returns the list to which the server with a token appends its access log."""
    return []


@pytest.fixture(scope="module")
def guarded(index, log):
    """Yields the port of a server with a token."""
    with running_app(index.folder, token=TOKEN, access_log=log.append) as port:
        yield port


# === Token ===


def basic(user_and_password):
    credentials = base64.b64encode(user_and_password.encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": "Bearer \xe9\xe9"}, 401),
        ({"Authorization": f"Digest {TOKEN}"}, 401),
        ({"Authorization": "Basic %%%"}, 401),
        (basic(TOKEN), 401),
        (basic("me:wrong"), 401),
        (BEARER, 200),
        ({"Authorization": f"bearer  {TOKEN} "}, 200),
        (basic(f":{TOKEN}"), 200),
        (basic(f"me:{TOKEN}"), 200),
        ({**BEARER, "Host": "images.example.org"}, 200),
        ({**BEARER, "Host": "a.example", "Origin": "https://a.example"}, 200),
        ({**BEARER, "Host": "a.example", "Origin": "https://b.example"}, 403),
        ({**BEARER, "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_requests_need_the_token(guarded, headers, status):
    for path in ("/api/search?text=red", "/image/1", "/metrics", "/static/serve.js"):
        received, response_headers, content = request(guarded, path, headers=headers)
        assert received == status
        # Browsers ask for a password.
        if status == 401:
            assert response_headers["www-authenticate"].startswith("Basic realm=")
            assert "the token" in content["error"]


def test_the_health_check_needs_no_token(guarded):
    assert request(guarded, "/health")[::2] == (200, {"status": "ok"})
    container = {"Host": "10.0.0.7:8765"}
    assert request(guarded, "/health", headers=container)[0] == 200
    assert request(guarded, "/health/x", headers=BEARER)[0] == 404


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_KERAS_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("ALIGN_KERAS_TOKEN", TOKEN)
    assert read_token() == TOKEN
    file = tmp_path / "token"
    file.write_text("another-token-1234\nsecond line\n")
    assert read_token(file) == "another-token-1234"
    for content in ("", "short-secret", "has a space in the middle", "sécret" * 9):
        file.write_text(content)
        with pytest.raises(InputError, match="16 to 1,000") as error:
            read_token(file)
        assert not content or content not in str(error.value)
    monkeypatch.setenv("ALIGN_KERAS_TOKEN", "short-secret")
    with pytest.raises(InputError, match="ALIGN_KERAS_TOKEN"):
        read_token()
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "none")


# === Access log and metrics ===


def wait_for_lines(log, count):
    """Waits for lines of the log, which the server writes after the responses."""
    for _ in range(200):
        if len(log) >= count:
            break
        time.sleep(0.01)
    return log


def test_each_request_is_logged_without_its_query(guarded, log):
    log.clear()
    forwarded = {**BEARER, "X-Forwarded-For": "203.0.113.9"}
    forged = {**BEARER, "X-Forwarded-For": '1.2.3.4" 200'}
    assert (
        request(guarded, "/api/search", headers=BEARER, text="secret words")[0] == 200
    )
    assert request(guarded, f"/api/index?token={TOKEN}", headers=forwarded)[0] == 200
    assert request(guarded, "/%0Aimage/%22", headers=forged)[0] == 404
    assert request(guarded, "/image/1", headers={"Authorization": TOKEN})[0] == 401
    lines = [LOG_LINE.fullmatch(line).groups() for line in wait_for_lines(log, 4)]
    assert [line[:4] for line in lines] == [
        ("127.0.0.1", "GET", "/api/search", "200"),
        ("203.0.113.9", "GET", "/api/index", "200"),
        ("-", "GET", "/%0Aimage/%22", "404"),
        ("127.0.0.1", "GET", "/image/1", "401"),
    ]
    assert int(lines[0][4]) > 1_000
    assert "secret" not in "".join(log)


def samples(port):
    """Returns a dict from the name and the labels of a sample to its value."""
    status, headers, content = request(port, "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def test_metrics_count_requests_and_texts(index):
    prefix = "align_keras_"
    with running_app(index.folder) as port:
        for text in ("red", "blue", "red"):
            assert request(port, "/api/search", text=text, plus="green")[0] == 200
        assert request(port, "/api/search", k=0)[0] == 400
        for number in (1, 2):
            assert request(port, f"/thumbnail/{number}")[0] == 200
        assert request(port, "/nowhere/else", method="BREW")[0] == 404
        values = samples(port)
    responses = f"{prefix}http_requests_total"
    assert values[responses, "/api/search", "200", "GET"] == 3
    assert values[responses, "/api/search", "400", "GET"] == 1
    assert values[responses, "/thumbnail/{id}", "200", "GET"] == 2
    # Paths and methods of clients are not labels.
    assert values[responses, "404", "other", "other"] == 1
    assert values[f"{prefix}http_request_seconds_count", "/api/search"] == 4
    assert values[f"{prefix}http_requests_running",] == 1  # The request of `samples`.
    assert values[f"{prefix}index_images",] == 30
    assert values[f"{prefix}texts_total", "encoder"] == 3
    assert values[f"{prefix}texts_total", "cache"] == 3
    assert values[f"{prefix}text_queries_per_batch_count",] == 3
    assert values["process_resident_memory_bytes",] > 1e7


def test_concurrent_searches_return_the_hits_of_single_searches(index):
    queries = [
        {"text": ["red", "green", "blue"][number % 3], "plus": f"blue {number}"}
        for number in range(40)
    ]
    queries[7] = {"text": "red", "where": "name like '1%'"}
    queries[11] = {"text": "red", "minus": "red"}
    queries[13] = {"like": 5}
    queries[17] = {}
    queries[19] = {"text": "red", "minus": "blue"}
    with running_app(index.folder) as port:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(
                pool.map(
                    lambda query: request(port, "/api/search", **query, k=9), queries
                )
            )
        values = samples(port)
    batches = "align_keras_text_queries_per_batch"
    assert values[f"{batches}_sum",] == len(queries) > values[f"{batches}_count",]
    assert [number for number, answer in enumerate(answers) if answer[0] != 200] == [11]
    assert "cancel out" in answers[11][2]["error"]
    for number in (0, 7, 13, 17, 19, 39):
        options = {
            "image" if name == "like" else name: value
            for name, value in queries[number].items()
        }
        expected = index.query(Query(**options), k=9)
        hits = answers[number][2]["hits"]
        assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
        assert [hit["score"] for hit in hits] == [hit.score for hit in expected]


# === Command ===


def serve_command(*arguments):
    words = [sys.executable, "-m", "align_keras.cli.main", "serve"]
    return [*words, *map(str, arguments)]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--host", "0.0.0.0"], "a loopback address"),
        (["--host", "::"], "a loopback address"),
        (["--host", "no.host.invalid"], "no.host.invalid"),
        (["--token-file", "no_file"], ": no_file"),
    ],
)
def test_the_command_refuses_other_hosts_without_a_token(
    index, options, message, monkeypatch, capsys
):
    monkeypatch.setenv("ALIGN_KERAS_TOKEN", "")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    folder = str(index.folder)
    # The port is in use, so that a server that does not refuse the options ends too.
    with socket.create_server(("", 0)) as used:
        port = str(used.getsockname()[1])
        assert main(["serve", "--index", folder, "--port", port, *options]) == 1
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_sigterm_finishes_running_requests(index, tmp_path):
    """The server reads the token from a file and prints its access log."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    options = ("--token-file", file, "--access-log", "--host", "0.0.0.0", "--port", 0)
    process = subprocess.Popen(
        serve_command("--index", index.folder, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        image = image_bytes("red")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/api/search?k=3")
        connection.putheader("Content-Length", str(len(image)))
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.endheaders(image[:20])
        assert request(port, "/api/index", headers=BEARER)[0] == 200
        assert request(port, "/api/index")[0] == 401
        process.send_signal(signal.SIGTERM)
        wait_until_refused(port)
        # The upload ends after the signal.
        connection.send(image[20:])
        response = connection.getresponse()
        assert response.status == 200 and b'"hits"' in response.read()
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and errors == ""
    lines = [LOG_LINE.fullmatch(text).group(2, 3, 4) for text in output.splitlines()]
    assert lines == [
        ("GET", "/api/index", "200"),
        ("GET", "/api/index", "401"),
        ("POST", "/api/search", "200"),
    ]


def wait_until_refused(port):
    """Waits until the server accepts no new connections."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("The server accepts connections after SIGTERM.")


# === Proxy ===


def nginx_blocks():
    """Returns the blocks of nginx settings in the guide."""
    return re.findall(r"^```nginx\n(.*?)^```", GUIDE.read_text(), re.M | re.S)


@pytest.fixture
def start_nginx(tmp_path):
    """Returns a function that runs nginx with the settings of a server."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("needs nginx and openssl")
    certificate = ["req", "-x509", "-newkey", "ec", "-pkeyopt"]
    certificate += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    certificate += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]
    subprocess.run(["openssl", *certificate, *files], check=True, capture_output=True)
    processes = []

    def start(settings):
        """Starts nginx, and returns the port."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        settings = re.sub(r"listen 443", f"listen 127.0.0.1:{port}", settings)
        settings = settings.replace("/etc/nginx/tls/images", str(tmp_path / "tls"))
        folders = "".join(
            f"{name}_temp_path {tmp_path}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (tmp_path / "nginx.conf").write_text(
            f"{user} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off;\n{folders}{settings}}}\n"
        )
        command = [nginx, "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"]
        processes.append(subprocess.Popen(command))
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return port
            except ConnectionRefusedError:
                assert processes[-1].poll() is None
                time.sleep(0.05)
        return pytest.fail("nginx accepts no connections.")

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


def secure_request(port, folder, path, body=None, headers=()):
    """Sends a request over TLS, and returns status and content of the response."""
    context = ssl.create_default_context(cafile=folder / "tls.crt")
    connection = http.client.HTTPSConnection(
        "localhost", port, timeout=60, context=context
    )
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_nginx_forwards_requests_with_the_token(
    guarded, log, index, start_nginx, tmp_path
):
    settings, _ = nginx_blocks()
    port = start_nginx(settings.replace("127.0.0.1:8765", f"127.0.0.1:{guarded}"))
    origin = {"Origin": f"https://localhost:{port}", "Sec-Fetch-Site": "same-origin"}
    log.clear()
    assert secure_request(port, tmp_path, "/")[0] == 401
    assert secure_request(port, tmp_path, "/health")[0] == 200
    assert secure_request(port, tmp_path, "/metrics", headers=BEARER)[0] == 403
    headers = {**BEARER, **origin, "X-Forwarded-For": "203.0.113.9"}
    status, content = secure_request(
        port, tmp_path, "/api/search?text=red", None, headers
    )
    assert status == 200 and b'"hits"' in content
    # A client of the proxy cannot choose its address.
    assert LOG_LINE.fullmatch(wait_for_lines(log, 3)[2])[1] == "127.0.0.1"
    # The limit of nginx for bodies is 1 MB by default.
    image = image_bytes("red") + bytes(3_000_000)
    assert secure_request(port, tmp_path, "/api/search", image, headers)[0] == 200
    file = pathlib.Path(index.query("red", k=1)[0].path)
    id = index.query("red", k=1)[0].id
    _, content = secure_request(port, tmp_path, f"/image/{id}", None, headers)
    assert content == file.read_bytes()
    foreign = {**BEARER, "Origin": "https://evil.example"}
    assert secure_request(port, tmp_path, "/api/index", None, foreign)[0] == 403


def test_nginx_replaces_passwords_of_users_by_the_token(guarded, start_nginx, tmp_path):
    settings, passwords = nginx_blocks()
    settings = settings.replace("127.0.0.1:8765", f"127.0.0.1:{guarded}")
    passwords = passwords.replace("/etc/nginx/users", str(tmp_path / "users"))
    settings = settings.replace("location / {", "location / {\n" + passwords)
    settings = settings.replace("TOKEN", TOKEN)
    encrypted = subprocess.run(
        ["openssl", "passwd", "-apr1", "pass word"], capture_output=True, text=True
    ).stdout
    (tmp_path / "users").write_text(f"me:{encrypted}")
    port = start_nginx(settings)
    for user, status in (
        ("me:pass word", 200),
        ("me:wrong", 401),
        (f"me:{TOKEN}", 401),
    ):
        answer = secure_request(port, tmp_path, "/api/index", None, basic(user))
        assert answer[0] == status

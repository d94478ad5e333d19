"""Reads and uploads with emulated object stores: S3 by moto and GCS by an emulator."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from align_keras.cli.main import main
from align_keras.utils import remote, remote_requests
from align_keras.utils.errors import InputError
from align_keras.utils.mirror import mirrored
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes

pytestmark = pytest.mark.release
SERVERS = {
    "s3": ("moto.server", "-H", "127.0.0.1", "-p", "PORT"),
    "gs": (
        "gcp_storage_emulator",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
        "--in-memory",
        "--default-bucket",
        "bucket",
    ),
}
CONTENT = os.urandom(9_000_001)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    """Starts an emulated store in a separate process and returns its scheme."""
    port = str(free_port())
    words = [port if word == "PORT" else word for word in SERVERS[request.param]]
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        remote.clear_caches()
        for _ in range(300):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", int(port))):
                    break
            time.sleep(0.1)
        fs, _ = remote_requests.file_system(f"{request.param}://bucket")
        if request.param == "s3":
            fs.mkdir("bucket")
        yield request.param
        fs.clear_instance_cache()
    process.terminate()
    process.wait()
    remote.clear_caches()


@pytest.fixture
def url(server, request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    return f"{server}://bucket/{request.node.originalname}"


def put(url, content):
    fs, path = remote_requests.file_system(url)
    fs.pipe_file(path, content)


def test_files_are_read_and_listed(url):
    put(f"{url}/sub/a b#1.tar", CONTENT)
    put(f"{url}/.hidden/b.tar", b"1")
    [file] = remote.list_url(url, ".tar")
    assert (file.name, file.size) == ("sub/a b#1.tar", len(CONTENT))
    assert remote.stat_url(url) is None
    with remote.open_url(f"{url}/{file.name}") as reader:
        assert reader.raw.version == file.version
        reader.seek(4_194_300)
        assert reader.read(8) == CONTENT[4_194_300:4_194_308]
        assert reader.read() == CONTENT[4_194_308:]
    remote.clear_caches()
    assert remote.read_url(f"{url}/{file.name}", 5, 7) == CONTENT[5:12]
    for missing in (f"{url}/none", f"{url.replace('bucket', 'nowhere')}/none"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            remote.open_url(missing)


def test_a_file_that_changes_during_a_read_raises_an_error(url):
    if url.startswith("gs:"):
        pytest.skip("the emulator has only the newest generation of an object")
    put(url, CONTENT)
    reader = remote.open_url(url)
    reader.read(1)
    put(url, CONTENT[::-1])
    with pytest.raises(OSError, match="file changed while"):
        reader.read()


def files_of(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def test_a_folder_is_uploaded_and_downloaded(url, tmp_path, monkeypatch):
    with mirrored(url) as folder:
        (folder / "a b.bin").write_bytes(CONTENT)
        (folder / "c").write_text("1")
    with mirrored(url) as folder:
        (folder / "c").write_text("2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    with mirrored(url, writes=False) as folder:
        assert files_of(folder) == {"a b.bin": CONTENT, "c": b"2"}
    assert [file.name for file in remote.list_url(url)] == ["a b.bin"]


def test_a_second_writer_is_refused(url, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="one process"):
        with mirrored(url) as folder:
            (folder / "a").write_text("1")
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
            with mirrored(url) as folder:
                (folder / "a").write_text("2")
    with mirrored(url, writes=False) as folder:
        assert files_of(folder) == {"a": b"2"}


def test_a_pointer_is_created_once(url, tmp_path, monkeypatch):
    if url.startswith("gs:"):
        pytest.skip("the emulator ignores the condition")
    with mirrored(url) as folder:
        (folder / "a").write_text("1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    with monkeypatch.context() as patch:
        store = type(remote_requests.file_system(url)[0])
        patch.setattr(store, "find", lambda *_, **__: {})
        with pytest.raises(InputError, match="one process"):
            with mirrored(url) as folder:
                (folder / "a").write_text("2")


def files_of_pointer(url):
    """Returns the files that the newest pointer of a folder lists."""
    fs, path = remote_requests.file_system(url)
    fs.invalidate_cache()
    try:
        pointers = fs.glob(f"{path}/.align_keras/*.json")
        return json.loads(fs.cat_file(max(pointers)))["files"] if pointers else {}
    except FileNotFoundError:
        return {}  # A newer pointer has replaced it.


def test_the_next_call_continues_after_a_kill(url, tmp_path):
    script = (
        "import sys, time, align_keras.utils.mirror as mirror\n"
        "mirror.SECONDS_BETWEEN_PUSHES = 0.2\n"
        "with mirror.mirrored(sys.argv[1]) as folder:\n"
        "    for number in range(1000):\n"
        "        (folder / f'{number:04}').write_text(str(number))\n"
        "        time.sleep(0.02)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, url], stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        if len(files_of_pointer(url)) >= 20:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with mirrored(url, writes=False) as folder:
        uploaded_files = files_of(folder)
    assert len(uploaded_files) >= 20
    assert all(text == str(int(name)).encode() for name, text in uploaded_files.items())
    with mirrored(url) as folder:
        assert files_of(folder).items() >= uploaded_files.items()


def test_remote_images_and_tables_are_indexed_and_embedded(url, tmp_path, capsys):
    def run(*words):
        assert main([*map(str, words)]) == 0
        return capsys.readouterr().out

    for color in COLORS:
        put(f"{url}/photos/{color}.png", image_bytes(color))
    put(f"{url}/t.csv", b"image,caption\nphotos/red.png,a red one\n")
    to, model = tmp_path / "index", ("--model", GOLDEN)
    output = run("index", f"{url}/photos", f"{url}/t.csv", "--index", to, *model)
    assert "3 added, 0 changed, 0 renamed, 0 removed, 0 unchanged" in output
    put(f"{url}/photos/green.png", image_bytes((0, 200, 9)))
    assert "0 added, 1 changed, 0 renamed, 0 removed, 2" in run("index", "--index", to)
    [query] = json.loads(run("search", "red", "-k1", "--json", "--index", to))[
        "queries"
    ]
    assert query["hits"][0]["path"] == f"{url}/photos/red.png"
    assert query["hits"][0]["captions"] == ["a red one"]
    out = tmp_path / "out"
    assert run("embed", f"{url}/photos", "--to", out, *model).startswith("3 rows in 1")


def test_an_unreachable_store_raises_a_one_line_error(server, tmp_path):
    command = [sys.executable, "-m", "align_keras.cli.main", "search", "a cat"]
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
    }
    process = subprocess.run(
        [*command, "--index", f"{server}://bucket/index"],
        capture_output=True,
        text=True,
        env=environment,
    )
    *retry_lines, error_line = process.stderr.splitlines()
    assert process.returncode == 1 and not process.stdout
    assert error_line.endswith(f"{server}://bucket/index")
    assert all("Trying again" in line for line in retry_lines)


def test_missing_credentials_raise_a_one_line_error(server, tmp_path):
    if server == "gs":
        pytest.skip("the emulator accepts requests without credentials")
    credentials = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment = {
        name: text for name, text in os.environ.items() if name not in credentials
    }
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "align_keras.cli.main",
            "corpus",
            "extract",
            "--source",
            "warc:s3://bucket/a.warc",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env={**environment, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert process.returncode == 1 and not process.stdout
    assert "no credentials" in process.stderr
    assert len(process.stderr.splitlines()) == 1

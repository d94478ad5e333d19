"""No command prints or stores the password or the token of an address."""

import pathlib

import pytest

from align_keras.cli.main import main
from align_keras.utils import remote
from align_keras.utils.addresses import forget_secrets
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.web_server import WebServer

pytestmark = pytest.mark.ci

SECRET = "S3cr3tW0rd"


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    """Folder for all files that a command writes. Pauses between retries are short."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    forget_secrets()
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("TMPDIR", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(remote, "TRIES", 2)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    yield folder
    forget_secrets()


@pytest.fixture
def run(capfd, work_folder):
    """Function that runs a command and returns the exit code and the output.

    It fails if the output or a file of the work folder contains the secret.
    """

    def run(*words):
        try:
            code = main([*map(str, words)])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        assert SECRET not in out + err
        for path in work_folder.rglob("*"):
            assert SECRET not in path.name
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes(), path
        return code, out + err

    return run


@pytest.fixture
def web():
    """Web server with a table and its images, which requires a password."""
    files = {f"{color}.png": image_bytes(color) for color in COLORS}
    rows = "".join(f"{color}.png,{color} thing\n" for color in COLORS)
    files["t.csv"] = f"image,caption\n{rows}".encode()
    with WebServer(files) as server:
        server.login = f"me:{SECRET}"
        yield server


def secret_address(server, name="t.csv"):
    return f"{server.url.replace('//', f'//me:{SECRET}@')}/{name}"


# Addresses and connection strings with a password. No server listens on port 9.
DATABASE_ADDRESSES = [
    f"postgresql://me:{SECRET}@127.0.0.1:9/db",
    f"postgresql://me:a/{SECRET}@127.0.0.1:9/db",
    f"postgresql://me:a@{SECRET}@127.0.0.1:9/db",
    f"postgresql://127.0.0.1:9/db?user=me&password={SECRET}",
    f"postgresql://127.0.0.1:9/db?user=me&sslpassword={SECRET}",
    f"postgresql://me:%zz{SECRET}@127.0.0.1:9/db",
    f"host=127.0.0.1 port=9 dbname=db password={SECRET}",
]


@pytest.mark.parametrize("address", DATABASE_ADDRESSES)
def test_passwords_of_databases_are_hidden(run, address, work_folder, monkeypatch):
    pytest.importorskip("psycopg")
    (work_folder / "photos").mkdir()
    (work_folder / "photos" / "a.png").write_bytes(image_bytes("red"))
    model = ("--model", GOLDEN)
    assert run("index", "photos", "--index", address, *model)[0] == 1
    assert run("index", "--index", address, "--remove", "photos", *model)[0] == 1
    assert run("index", "photos", "--index", address, "--rebuild", *model)[0] == 1
    assert run("search", "red", "--index", address)[0] == 1
    assert run("serve", "--index", address, "--port", "0")[0] == 1
    monkeypatch.setenv("ALIGN_KERAS_INDEX", address)
    assert run("search", "red")[0] == 1
    assert run("index", "photos", *model)[0] == 1


def test_passwords_of_web_servers_are_hidden(run, web, work_folder, monkeypatch):
    index = ("--index", "index", "--model", GOLDEN)
    address = secret_address(web)
    web.faults[:] = ["500"]
    code, output = run("index", address, *index)
    assert code == 0 and "3 added" in output and "Trying again" in output
    code, output = run("search", "red", "--index", "index", "--json")
    assert code == 0 and f"//me@127.0.0.1:{web.server_port}/red.png" in output
    assert run("search", "red", "--index", "index")[0] == 0
    # The process remembers the password until `forget_secrets`.
    assert run("index", *index)[0] == 0
    forget_secrets()
    code, output = run("index", *index)
    assert code == 1 and "access was denied" in output
    (work_folder.parent / "netrc").write_text(
        f"machine 127.0.0.1 login me password {SECRET}\n"
    )
    forget_secrets()
    code, output = run("index", *index)
    assert code == 0 and "3 unchanged" in output
    assert run("index", "--index", "index", "--remove", address)[0] == 0
    web.login = "me:another"
    assert run("index", address, "--index", "other", "--model", GOLDEN)[0] == 1


# Commands in which {} is an address with a password.
COMMANDS = [
    ("embed", "{}", "--to", "out", "--model", GOLDEN),
    ("corpus", "build", "--out", "corpus", "--source", "pairs:{}"),
    ("corpus", "build", "--out", "corpus", "--source", "images:{}"),
    (
        "train",
        "--experiment",
        "quickstart",
        "--model_dir",
        "run",
        "--params_override",
        "task.train_data.pairs={}",
    ),
    ("plan", "--experiment", "quickstart", "--params_override", "task.x={}"),
    ("evaluate", "retrieval", "--model", "{}", "--data", "{}"),
    ("evaluate", "retrieval", "--model", GOLDEN, "--data", "{}"),
    ("export", "litert", "--model", "{}", "--to", "out"),
    ("convert", "hf", "{}", "--to", "out"),
    ("search", "red", "--model_dir", "{}"),
    ("search", "red", "--image", "{}"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_all_commands_hide_passwords(run, web, command):
    web.faults[:] = ["500", "ok", "500", "500"]
    for name in ("t.csv", f"t.csv?token={SECRET}.csv", "none.csv"):
        address = secret_address(web, name)
        run(*(str(word).replace("{}", address) for word in command))


def test_the_web_server_checks_the_password(web):
    """The server refuses a request without the password."""
    with pytest.raises(PermissionError, match="access was denied"):
        remote.read_url(f"{web.url}/t.csv")
    assert remote.read_url(secret_address(web)).startswith(b"image,")
    assert pathlib.Path("index").exists() is False

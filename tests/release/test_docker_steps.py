"""The steps of the search page's Dockerfile run in an empty Debian, without Docker.

debootstrap installs Debian, whose Python is that of the image `python:3.13-slim`. Each
stage begins with a copy of it, and chroot runs the commands.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.helpers.dockerfile import read_instructions

ROOT = pathlib.Path(__file__).parents[2]
DOCKERFILE = ROOT / "docs/pages/guides/docker/Dockerfile"
# The release that has the Python of the image.
RELEASE, BASE_IMAGE = "trixie", "python:3.13-slim"
pytestmark = [pytest.mark.release, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """Returns a folder with a small Debian that has Python and nothing else."""
    if os.geteuid() or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    folder = tmp_path_factory.mktemp("debian") / "root"
    packages = "python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}"]
    subprocess.run([*command, RELEASE, folder], check=True, stdout=subprocess.DEVNULL)
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    # The network settings of this machine, which Docker copies too.
    for path in ("/etc/resolv.conf", os.environ.get("PIP_CERT", "")):
        if path:
            shutil.copyfile(path, folder / path.removeprefix("/"))
    return folder


class Stage:
    """Stage of an image: a root file system and the settings of its instructions."""

    def __init__(self, root):
        self.root = root
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        if "PIP_CERT" in os.environ:
            self.environment["PIP_CERT"] = os.environ["PIP_CERT"]
        self.folder, self.user, self.settings = "/", "0", {}

    def command(self, *arguments):
        """Returns the arguments that run a program in this stage."""
        identity = f"{self.user}:{self.user}"
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        program = shlex.join(["exec", *map(str, arguments)])
        script = f"cd {shlex.quote(self.folder)} && {program}"
        chroot = ["chroot", f"--userspec={identity}", str(self.root)]
        return [*chroot, "env", "-i", *settings, "sh", "-c", script]

    def path(self, name):
        """Returns the path of a file of the stage on this machine."""
        return self.root / os.path.join(self.folder, name).removeprefix("/")


def build(debian, folder):
    """Runs the instructions of the Dockerfile, and returns the last stage."""
    stages = {}
    stage = None
    for name, arguments in read_instructions(DOCKERFILE):
        if name == "FROM":
            image, _, label = arguments.partition(" AS ")
            assert image == BASE_IMAGE
            root = folder / f"stage_{len(stages)}"
            # shutil.copytree would read the endless devices in /dev.
            subprocess.run(["cp", "--archive", debian, root], check=True)
            stage = stages[label] = Stage(root)
        elif name == "WORKDIR":
            stage.folder = arguments
            stage.path(".").mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            copy(stage, stages, arguments.split())
        elif name == "RUN":
            subprocess.run(stage.command("sh", "-c", arguments), check=True)
        elif name == "ENV":
            key, _, value = arguments.partition("=")
            stage.environment[key] = value.replace("$PATH", stage.environment["PATH"])
        elif name == "USER":
            stage.user = arguments
        else:
            stage.settings[name] = arguments
    return stage


def copy(stage, stages, arguments):
    """Copies files of the clone, or of another stage, to a stage."""
    source = ROOT
    if arguments[0].startswith("--from="):
        source = stages[arguments.pop(0).removeprefix("--from=")].root
    *names, target = arguments
    for name in names:
        path = source / name.removeprefix("/")
        destination = stage.path(target)
        if target.endswith("/"):
            destination = destination / path.name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, destination, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, destination)


def test_the_image_indexes_and_serves_images(debian, tmp_path):
    stage = build(debian, tmp_path)
    source = np.random.default_rng(0)
    (stage.root / "images").mkdir()
    for color in ((255, 0, 0), (0, 0, 255)):
        pixels = source.integers(0, 40, (64, 64, 3)) + np.array(color) * 0.8
        image = Image.fromarray(pixels.astype("uint8"))
        image.save(stage.root / "images" / f"{color[0]}.png")
    stage.environment["HOME"] = "/home/align"
    program = json.loads(stage.settings["ENTRYPOINT"])
    index = stage.command(*program, "index", "/images", "--index", "/index")
    subprocess.run(index, check=True)
    imports = "import importlib.util as u; print(u.find_spec('tensorflow'))"
    output = subprocess.check_output(stage.command("python", "-c", imports), text=True)
    assert output == "None\n"

    arguments = json.loads(stage.settings["CMD"])
    token = "a-token-of-the-container"
    stage.environment["ALIGN_KERAS_TOKEN"] = token
    server = subprocess.Popen(stage.command(*program, *arguments))
    try:
        health = json.loads(stage.settings["HEALTHCHECK"].partition("CMD ")[2])
        for _ in range(60):
            check = subprocess.run(stage.command(*health), capture_output=True)
            if check.returncode == 0:
                break
            time.sleep(1)
        address = "http://127.0.0.1:8765/api/search?text=red&k=2"
        headers = {"Authorization": f"Bearer {token}"}
        search = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(search, timeout=60) as response:
            hits = json.load(response)["hits"]
        assert {hit["path"] for hit in hits} == {"/images/255.png", "/images/0.png"}
    finally:
        server.terminate()
        server.wait(20)

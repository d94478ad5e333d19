"""The wheel, the sdist and the lowest allowed versions work in new environments.

pip installs each environment from the package index. Only the last test reads the
clone.
"""

import configparser
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import venv
import zipfile

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
# Each installation takes minutes.
pytestmark = [pytest.mark.release, pytest.mark.timeout(1800)]

SMALL = ",".join(
    [
        "task.model.image_encoder.image_size=32",
        "task.model.image_encoder.width_coefficient=0.1",
        "task.model.image_encoder.depth_coefficient=0.1",
        "task.model.text_encoder.variant=bert_tiny",
        "task.model.text_encoder.num_layers=1",
        "task.model.text_encoder.hidden_dim=16",
        "task.model.text_encoder.intermediate_dim=32",
        "task.model.text_encoder.vocabulary_size=60",
        "task.model.text_encoder.sequence_length=8",
        "task.model.projection_dim=16",
        "task.train_data.global_batch_size=8",
        "trainer.train_steps=4,trainer.steps_per_loop=2",
        "trainer.checkpoint_interval=4,trainer.validation_interval=4",
        "trainer.optimizer_config.warmup.linear.warmup_steps=2",
    ]
)
# Tests of public functions, and of code that uses private parts of other packages.
TESTS_OF_LOWEST = [
    "tests/artifacts",
    "tests/layers",
    "tests/models/test_align.py",
    "tests/models/test_quantization.py",
    "tests/search/test_image_index.py",
    "tests/text/test_vocabulary.py",
]


def run(*command, folder, **variables):
    """Runs a command without this clone on its path. Returns its stdout."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONPATH", "PYTEST", "VIRTUAL_ENV"))
    }
    process = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-5000:]
    return process.stdout


def create_environment(folder):
    """Creates a virtual environment. Returns the folder of its programs."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Builds the sdist, and the wheel from the sdist, with `build`."""
    folder = tmp_path_factory.mktemp("build")
    programs = create_environment(folder / "venv")
    run(programs / "pip", "install", "-q", "build", folder=folder)
    run(programs / "python", "-m", "build", "--outdir", "dist", ROOT, folder=folder)
    return {
        "wheel": next((folder / "dist").glob("*.whl")),
        "sdist": next((folder / "dist").glob("*.tar.gz")),
    }


def write_pairs(folder):
    """Writes 40 images of noise with distinct captions."""
    folder.mkdir()
    source = np.random.default_rng(0)
    lines = []
    for row in range(40):
        pixels = source.integers(0, 256, (48, 48, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{row}.png")
        caption = f"image {chr(97 + row % 26)} of {chr(97 + row // 26)}"
        lines.append(json.dumps({"image": f"{row}.png", "caption": caption}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_works_outside_the_clone(kind, distributions, tmp_path):
    programs = create_environment(tmp_path / "venv")
    requirement = f"{distributions[kind]}[tensorflow]"
    run(programs / "pip", "install", "-q", requirement, folder=tmp_path)
    run(programs / "pip", "check", folder=tmp_path)
    command = programs / "align-keras"
    assert "quickstart" in run(command, "--help", folder=tmp_path)
    code = "import align_keras; print(align_keras.__file__)"
    package_path = run(programs / "python", "-c", code, folder=tmp_path)
    assert package_path.startswith(str(tmp_path))

    write_pairs(tmp_path / "pairs")
    arguments = ["--pairs", "pairs/pairs.jsonl", "--model_dir", "run"]
    arguments += ["--data_dir", "data", "--params_override", SMALL]
    run(command, "quickstart", *arguments, folder=tmp_path)
    run(command, "export", "--model", "run", "--to", "exported", folder=tmp_path)
    assert (tmp_path / "exported" / "text" / "1" / "saved_model.pb").is_file()
    search = [command, "search", "--model_dir", "run", "--json", "image a of a"]
    result = json.loads(run(*search, folder=tmp_path))
    assert len(result["queries"][0]["hits"]) == 5
    # The distribution includes the experiments.
    assert "parameters" in run(
        command,
        "plan",
        "--experiment=align_b7_base",
        "--devices=1024",
        "--device-kind=tpu_v3",
        folder=tmp_path,
    )


def test_the_wheel_works_without_extras(distributions, tmp_path):
    programs = create_environment(tmp_path / "venv")
    run(programs / "pip", "install", "-q", distributions["wheel"], folder=tmp_path)
    run(programs / "pip", "check", folder=tmp_path)
    script = ROOT / "tools" / "check_light.py"
    output = run(programs / "python", script, folder=tmp_path)
    assert "all checks passed" in output


def test_the_sdist_contains_all_sources(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    paths = ["align_keras", "experiments", "saved_models/align_small_en"]
    tracked = run("git", "ls-files", *paths, "saved_models/__init__.py", folder=ROOT)
    assert set(tracked.splitlines()) <= names


def test_the_wheel_contains_the_small_model(distributions):
    folder = "align_keras/saved_models/align_small_en/"
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        sizes = {
            info.filename.removeprefix(folder): info.file_size
            for info in archive.infolist()
            if info.filename.startswith(folder)
        }
    shipped = ROOT / "saved_models" / "align_small_en"
    assert sizes == {
        path.relative_to(shipped).as_posix(): path.stat().st_size
        for path in shipped.rglob("*")
        if path.is_file()
    }


def lowest_versions():
    """Returns a list of `name==version` of the lower bounds in setup.cfg.

    Requirements of other platforms are left out. If a package has several bounds, the
    largest one counts.
    """
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    text = parser["options"]["install_requires"]
    for name, lines in parser["options.extras_require"].items():
        if name == "test" or name.startswith("tensorflow"):
            text += lines
    versions = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement = Requirement(line)
        bounds = [
            Version(specifier.version)
            for specifier in requirement.specifier
            if specifier.operator in ("~=", ">=")
        ]
        if requirement.marker is None or requirement.marker.evaluate():
            for bound in bounds:
                name = requirement.name.lower().replace("_", "-")
                versions[name] = max(bound, versions.get(name, bound))
    assert len(versions) > 20
    return [f"{name}=={version}" for name, version in versions.items()]


def test_the_tests_pass_with_the_lowest_versions(tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the lowest versions only have wheels for Python 3.11")
    (tmp_path / "lowest.txt").write_text("\n".join(lowest_versions()) + "\n")
    programs = create_environment(tmp_path / "venv")
    install = [programs / "pip", "install", "-q", "-c", "lowest.txt"]
    run(*install, "-e", f"{ROOT}[test]", folder=tmp_path)
    run(programs / "pip", "check", folder=tmp_path)
    test_command = [programs / "python", "-m", "pytest", "-n", "0", "-q"]
    run(*test_command, *TESTS_OF_LOWEST, folder=ROOT)

"""Schemathesis sends requests of all kinds and compares responses with the document."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from align_keras.search.image_index import Index
from tests.helpers.color_towers import GOLDEN, image_bytes
from tests.helpers.serving import running_app

pytestmark = pytest.mark.release


def test_responses_conform_to_the_document(tmp_path):
    """All checks run except that each valid request succeeds.

    A document cannot describe which conditions are valid, and which images exist.
    """
    folder = pathlib.Path(sys.executable).parent
    schemathesis = shutil.which("schemathesis", path=str(folder))
    if schemathesis is None:
        pytest.skip("pip install schemathesis")
    (tmp_path / "images").mkdir()
    for color in ("red", "green", "blue"):
        (tmp_path / "images" / f"{color}.png").write_bytes(image_bytes(color))
    index = Index.build(tmp_path / "index", [tmp_path / "images"], str(GOLDEN))
    with running_app(index.folder) as port:
        address = f"http://127.0.0.1:{port}/openapi.json"
        options = ["--exclude-checks", "positive_data_acceptance", "--no-color"]
        options += ["--max-examples", "100", "--seed", "1"]
        process = subprocess.run(
            [schemathesis, "run", address, *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    assert process.returncode == 0, process.stdout

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
# The server may check the state of the index before the other parameters, so a wrong
# request with an old state gets the status 410.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429]
"""


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
    (tmp_path / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
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

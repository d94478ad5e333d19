"""img2dataset fetches the list of missing images, and its shards give the corpus.

img2dataset needs its own environment, because it limits the versions of OpenCV.
"""

import os
import pathlib
import subprocess
import venv

import pytest

from tests.helpers.small_corpus import ONE_WORKER, caption, draw, funnel_of, run
from tests.helpers.web_server import WebServer

# The installation takes minutes.
pytestmark = [pytest.mark.release, pytest.mark.timeout(1800)]
NAMES = ("good", "busy", "cut", "gone", "text")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Path of img2dataset: `ALIGN_KERAS_IMG2DATASET`, or a new installation."""
    if path := os.environ.get("ALIGN_KERAS_IMG2DATASET"):
        return pathlib.Path(path)
    folder = tmp_path_factory.mktemp("img2dataset")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/pip", "install", "--quiet", "img2dataset==1.47.0"]
    subprocess.run(pip, check=True)
    return folder / "bin/img2dataset"


def fetch(program, url_list, shards):
    """Downloads a list with the options of the guide."""
    command = [program, "--url_list", url_list, "--input_format", "parquet"]
    command += ["--url_col", "url", "--caption_col", "caption"]
    command += ["--save_additional_columns", '["rule", "language", "page_url"]']
    command += ["--resize_mode", "no", "--skip_reencode", "True"]
    command += ["--output_format", "webdataset", "--output_folder", shards]
    command += ["--processes_count", "1", "--thread_count", "4", "--timeout", "20"]
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {key: os.environ[key] for key in os.environ if key not in hidden}
    subprocess.run(list(map(str, command)), check=True, env=environment)


def test_a_second_download_fetches_the_missing_images(program, tmp_path):
    for number in range(3):
        draw(number).save(tmp_path / f"{number}.png")
    contents = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    files = dict(zip(("good.png", "busy.png", "cut.png"), contents, strict=True))
    files["text.png"] = b"no image"
    pages = tmp_path / "pages"
    pages.mkdir()
    command = ("corpus", "urls", f"--out={tmp_path / 'out'}", *ONE_WORKER)
    command += (f"--source=html:{pages}", f"--to={tmp_path / 'urls.parquet'}")
    first, second = tmp_path / "first", tmp_path / "second"
    with WebServer(files) as server:
        server.down.add("busy.png")
        server.short.add("cut.png")
        images = [
            f"<img src='{server.url}/{name}.png' alt='{caption(number)}'>"
            for number, name in enumerate(NAMES)
        ]
        (pages / "page.html").write_text("".join(images))
        assert run(*command).startswith("wrote the addresses of 5 remote images")
        fetch(program, tmp_path / "urls.parquet", first)
        lines = run(*command, f"--downloaded={first}").splitlines()
        assert lines[0].startswith("wrote the addresses of 2 remote images")
        assert sorted(lines[1:3]) == [
            "           1  HTTP 503",
            "           1  connection error",
        ]
        assert lines[3] == "skipped the addresses of 3 remote images"
        assert sorted(lines[4:]) == [
            "           1  HTTP 404",
            "           1  downloaded",
            "           1  not decoded",
        ]
        server.down.clear()
        server.short.clear()
        fetch(program, tmp_path / "urls.parquet", second)
    both = (f"--downloaded={first}", f"--downloaded={second}")
    assert run(*command, *both).startswith("wrote the addresses of 0 remote images")
    # The corpus has the images of both downloads.
    sources = (f"--source=webdataset:{first}", f"--source=webdataset:{second}")
    built = run(
        "corpus", "filter", f"--out={tmp_path / 'built'}", *ONE_WORKER, *sources
    )
    assert funnel_of(built)["pairs that pass the filters"] == 3

import pathlib
import runpy

import pytest

from tests.helpers import color_towers
from tests.helpers import tiny_export as tiny_export_helper


@pytest.fixture(scope="session")
def tiny():
    """Returns the helper module that writes a tiny SavedModel and its images."""
    return tiny_export_helper


@pytest.fixture(scope="session")
def tiny_export(tiny, tmp_path_factory):
    return tiny.write_tiny_export(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="session")
def colors():
    """Returns the helper module of the LiteRT towers that embed colors."""
    return color_towers


@pytest.fixture
def photos(tmp_path, colors):
    """Returns a folder with two images, one image in a subfolder and a broken file."""
    folder = tmp_path / "photos"
    (folder / "Italy").mkdir(parents=True)
    for color in ("red", "green"):
        (folder / f"{color}.png").write_bytes(colors.image_bytes(color))
    (folder / "Italy" / "blue.jpg").write_bytes(
        colors.image_bytes("blue", (40, 24), "JPEG")
    )
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def server():
    """Yields a PostgreSQL server with pgvector that the tests of a module share."""
    pytest.importorskip("psycopg")
    script = pathlib.Path(__file__).with_name("postgres_server.py")
    tools = runpy.run_path(str(script))
    programs = tools["find_programs"]()
    if programs is None:
        pytest.skip("needs PostgreSQL with pgvector")
    server = tools["Server"](programs)
    yield server
    server.close()


@pytest.fixture
def database(server, request):
    """Returns the address of an empty database."""
    name = f"test{abs(hash(request.node.name))}"
    return server.new_database(name)

import pathlib
import runpy

import pytest

from tests.helpers import color_towers
from tests.helpers import tiny_export as tiny_export_helper


@pytest.fixture(scope="session")
def tiny():
    """The module with a tiny SavedModel and its images."""
    return tiny_export_helper


@pytest.fixture(scope="session")
def tiny_export(tiny, tmp_path_factory):
    return tiny.write_tiny_export(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="session")
def colors():
    """The module with LiteRT towers that embed colors, and its images."""
    return color_towers


@pytest.fixture
def photos(tmp_path, colors):
    """A folder of images, one of them in a subfolder, and one that is none."""
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
    """A PostgreSQL server with pgvector, which the tests of a module share."""
    pytest.importorskip("psycopg")
    script = pathlib.Path(__file__).with_name("postgres_server.py")
    tools = runpy.run_path(str(script))
    programs = tools["find"]()
    if programs is None:
        pytest.skip("needs PostgreSQL with pgvector")
    server = tools["Server"](programs)
    yield server
    server.close()


@pytest.fixture
def database(server, request):
    """The address of an empty database."""
    name = f"test{abs(hash(request.node.name))}"
    return server.new_database(name)

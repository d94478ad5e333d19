"""`align-keras corpus urls`: lists of the images that are still missing."""

import pytest

from align_keras.cli.main import main
from tests.helpers.small_corpus import ONE_WORKER, caption, run

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("selectolax")
SITE = "http://example.org/"
STATUSES = (
    ("success", None),
    ("failed_to_download", "HTTP Error 503: Service Unavailable"),
    ("failed_to_download", "HTTP Error 404: Not Found"),
)


@pytest.fixture
def words(tmp_path):
    """Command for a page of five remote images. The first three were downloaded."""
    images = [f"<img src={SITE}{n}.jpg alt='{caption(n)}'>" for n in range(5)]
    (tmp_path / "page.html").write_text("".join(images))
    shards = tmp_path / "shards"
    shards.mkdir()
    table = pyarrow.table(
        {
            "url": [f"{SITE}{number}.jpg" for number in range(3)],
            "caption": [caption(number) for number in range(3)],
            "status": [status for status, _ in STATUSES],
            "error_message": [message for _, message in STATUSES],
        }
    )
    pq.write_table(table, shards / "00000.parquet")
    command = ["corpus", "urls", f"--out={tmp_path / 'out'}", *ONE_WORKER]
    return [*command, f"--source=html:{tmp_path}", f"--to={tmp_path / 'urls.parquet'}"]


def test_missing_images_are_listed(words, tmp_path, capsys):
    path = tmp_path / "urls.parquet"
    shards = tmp_path / "shards"
    assert run(*words).splitlines() == [
        f"wrote the addresses of 5 remote images to {path}"
    ]
    (shards / "00001.tar").touch()
    assert run(*words, f"--downloaded={shards}").splitlines() == [
        f"wrote the addresses of 3 remote images to {path}",
        "           2  not tried",
        "           1  HTTP 503",
        "skipped the addresses of 2 remote images",
        "           1  downloaded",
        "           1  HTTP 404",
    ]
    names = [row["url"].removeprefix(SITE) for row in pq.read_table(path).to_pylist()]
    assert names == ["1.jpg", "3.jpg", "4.jpg"]
    note = f"{shards / '00001.tar'} is incomplete"
    assert note in capsys.readouterr().err


def test_wrong_folders_print_one_line_before_the_build(words, tmp_path, capsys):
    assert main([*words, f"--downloaded={tmp_path / 'nowhere'}"]) == 1
    [error] = capsys.readouterr().err.splitlines()
    assert "--downloaded" in error and "nowhere" in error
    assert not (tmp_path / "out").exists()


def test_other_stages_refuse_the_option(tmp_path, capsys):
    command = ["corpus", "filter", f"--out={tmp_path}", "--downloaded=shards"]
    assert main(command) == 1
    [error] = capsys.readouterr().err.splitlines()
    assert "--downloaded" in error and "stage filter" in error

import dataclasses
import hashlib

import pytest
from PIL import Image

from align_keras.corpus.extract import extract_part, merged_counts
from align_keras.corpus.sources import open_source
from align_keras.utils.errors import InputError

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"junk")
    (folder / "page.html").write_text(
        '<html lang="de"><img src="a.png" alt="ein rotes Bild"><img src="a.png" '
        'title="noch einmal"><img src="bad.png" alt="junk">'
        '<img src="https://example.org/far.jpg" alt="weit weg">'
    )
    return folder


def tasks_of(spec, out):
    source = open_source(spec)
    return [
        {
            "part": dataclasses.asdict(part),
            "source": source.name,
            "table": str(out / f"part-{number}.parquet"),
            "spool": str(out / "spool"),
        }
        for number, part in enumerate(source.parts())
    ]


def test_pairs_with_sizes_and_keys(pages, tmp_path):
    [task] = tasks_of(f"html:{pages}", tmp_path)
    counts = extract_part(task)
    assert counts["kept"] == 3 and counts["dropped"] == {"unreadable": 1}
    assert "bad.png" in counts["examples"]["unreadable"]
    rows = parquet.read_table(task["table"]).to_pylist()
    key = hashlib.blake2b((pages / "a.png").read_bytes(), digest_size=16).hexdigest()
    common = {
        "language": "de",
        "page_url": (pages / "page.html").as_uri(),
        "source": f"html:{pages}",
    }
    here = {"image": str(pages / "a.png"), "image_key": key, "width": 30, "height": 20}
    far = "https://example.org/far.jpg"
    there = {"image": far, "image_key": far, "width": 0, "height": 0}
    assert rows == [
        {**common, **here, "caption": "ein rotes Bild", "rule": "alt"},
        {**common, **here, "caption": "noch einmal", "rule": "title"},
        {**common, **there, "caption": "weit weg", "rule": "alt"},
    ]


def test_a_file_that_vanished_leaves_no_table(pages, tmp_path):
    [task] = tasks_of(f"html:{pages}", tmp_path)
    (pages / "page.html").rename(pages / "gone")
    with pytest.raises(InputError, match="1 of its files vanished.*page.html"):
        extract_part(task)
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob(".*"))


def test_counts_add_up_in_any_order():
    first = {"kept": 3, "dropped": {"empty": 1}, "examples": {"empty": "a"}}
    second = {
        "kept": 4,
        "dropped": {"empty": 2, "not downloaded": 5},
        "filtered": ["not downloaded"],
        "examples": {"empty": "b", "not downloaded": "c"},
    }
    counts = [
        {"filtered": [], "converted": {}, **own} for own in (first, second, first)
    ]
    total = merged_counts(counts)
    assert total["kept"] == 10
    assert total["dropped"] == {"empty": 4, "not downloaded": 5}
    assert total["filtered"] == ["not downloaded"]
    assert total["examples"] == {"empty": "a", "not downloaded": "c"}
    assert merged_counts([])["kept"] == 0

"""What the tool writes is what the corpus `pairs` reads."""

import json
import pathlib
import runpy
import subprocess
import sys

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from tests.helpers.small_benchmarks import (
    captions_of,
    coco_name,
    write_coco,
    write_flickr30k,
    write_picture,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def coco(tmp_path):
    folder = tmp_path / "coco"
    folder.mkdir()
    write_coco(folder)
    write_picture(folder / "train2014" / "COCO_train2014_000000000090.jpg", 90)
    return folder


def karpathy_pairs(folder, *arguments, name="coco"):
    """Runs the tool here; returns what it dies of, a str, or None."""
    main = runpy.run_path(str(ROOT / "tools" / "karpathy_pairs.py"))["main"]
    arguments = [str(folder / f"dataset_{name}.json"), *map(str, arguments)]
    try:
        main(arguments)
    except SystemExit as error:
        assert error.code.count("\n") == 0
        return error.code


def read(path):
    counter = DropCounter()
    return list(read_pairs(path, counter=counter)), counter.as_metadata()["dropped"]


@pytest.mark.ci
def test_splits_are_joined_with_all_captions(coco):
    out = coco / "karpathy_test.tsv"
    command = [sys.executable, "tools/karpathy_pairs.py", coco / "dataset_coco.json"]
    command += ["--images", coco, "--splits", "test", "restval", "--out", out]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"wrote 41 captions of 7 pictures to {out}\n"
    records, dropped = read(out)
    assert dropped == {}
    assert [record.captions for record in records] == [
        captions_of(row, 5 + row % 3) for row in range(6)
    ] + [captions_of(90, 5)]
    assert all(record.image_path.is_file() for record in records)
    # The folder may be moved as a whole.
    assert records[2].id == f"val2014/{coco_name(2)}"
    moved = coco.rename(coco.with_name("moved"))
    assert all(own.image_path.is_file() for own in read(moved / out.name)[0])


ODD = {
    "tab\tand\nline\u2028break": "tab and line break",
    '"all quoted"': '"all quoted"',
    '"begins" and ends "so"': '"begins" and ends "so"',
    '"begins so': '"begins so',
    '""': '""',
    "č\u00e9 猫": "č\u00e9 猫",
}


def test_odd_captions_come_back(tmp_path):
    entries = write_flickr30k(tmp_path, test=1, train=0)
    sentences = [*ODD, "x" * 2001, " "]
    entries[0]["sentences"] = [
        {"raw": text, "sentid": number} for number, text in enumerate(sentences)
    ]
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": entries, "dataset": "small"}))
    out = tmp_path / "elsewhere" / "test.tsv"
    arguments = ("--images", tmp_path / "images", "--splits", "test", "--out", out)
    assert karpathy_pairs(tmp_path, *arguments, name="flickr30k") is None
    (record,), dropped = read(out)
    assert record.captions == list(ODD.values())
    assert dropped == {"long caption": 1, "empty caption": 1}
    assert record.image_path == tmp_path / "images" / "1000.jpg"


def test_mistakes_take_a_line_and_leave_the_table(coco, capsys):
    out = coco / "test.tsv"
    out.write_text("as before")
    common = ("--images", coco, "--out", out, "--splits")
    told = karpathy_pairs(coco, *common, "test", "val")
    assert "error: split must be one of restval, test" in told
    (coco / "val2014" / coco_name(2)).unlink()
    told = karpathy_pairs(coco, *common, "test")
    assert "1 of 6 images of dataset_coco.json's test split are missing" in told
    assert out.read_text() == "as before"
    assert karpathy_pairs(coco, *common, "test", "--allow_missing") is None
    assert "of 5 pictures to" in capsys.readouterr().out and len(read(out)[0]) == 5
    csv = ("--images", coco, "--out", "a.csv", "--splits", "test")
    told = karpathy_pairs(coco, *csv)
    assert "--out must end in .tsv, received a.csv" in told
    unnamed = ("--images", coco, "--out", coco / "latest.tsv", "--splits")
    told = karpathy_pairs(coco, *unnamed, "restval", "test")
    assert "--out must have the word test in its name" in told
    assert not (coco / "latest.tsv").exists()
    assert karpathy_pairs(coco, *unnamed, "restval") is None

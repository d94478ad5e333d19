"""`align-keras data karpathy`: the table can be read as pairs."""

import json

import pytest

from align_keras.cli.main import main
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from tests.helpers.small_benchmarks import (
    captions_of,
    coco_name,
    write_coco,
    write_flickr30k,
    write_image,
)


@pytest.fixture
def coco(tmp_path):
    """Folder of a small COCO data set, whose split restval has one image."""
    folder = tmp_path / "coco"
    folder.mkdir()
    write_coco(folder)
    write_image(folder / "train2014" / "COCO_train2014_000000000090.jpg", 90)
    return folder


def write_table(folder, *arguments, name="coco"):
    """Runs the command and returns its exit code."""
    path = folder / f"dataset_{name}.json"
    return main(["data", "karpathy", str(path), *map(str, arguments)])


def error_of(capsys):
    """Returns the only line on stderr."""
    message = capsys.readouterr().err
    assert message.startswith("align-keras data: error: ")
    assert message.count("\n") == 1
    return message


def read_table(path):
    """Returns the records of a table, and the numbers of dropped captions."""
    counter = DropCounter()
    return list(read_pairs(path, counter=counter)), counter.as_metadata()["dropped"]


def test_the_table_has_all_captions_of_the_splits(coco, capsys):
    out = coco / "karpathy_test.tsv"
    splits = ("--splits", "test", "restval")
    assert write_table(coco, "--images", coco, *splits, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"wrote 41 captions of 7 images to {out}\n"
    assert captured.err == ""
    records, dropped = read_table(out)
    assert dropped == {}
    assert [record.captions for record in records] == [
        captions_of(row, 5 + row % 3) for row in range(6)
    ] + [captions_of(90, 5)]
    assert all(record.image_path.is_file() for record in records)
    # The paths of images are relative, so that the folder can be moved.
    assert records[2].id == f"val2014/{coco_name(2)}"
    moved = coco.rename(coco.with_name("moved"))
    assert all(
        record.image_path.is_file() for record in read_table(moved / out.name)[0]
    )


# Caption in the JSON file → caption in the table.
ODD_CAPTIONS = {
    "tab\tand\nline\u2028break": "tab and line break",
    '"all quoted"': '"all quoted"',
    '"begins" and ends "so"': '"begins" and ends "so"',
    '"begins so': '"begins so',
    '""': '""',
    "č\u00e9 猫": "č\u00e9 猫",
}


def test_odd_captions_are_read_back_unchanged(tmp_path):
    entries = write_flickr30k(tmp_path, test=1, train=0)
    sentences = [*ODD_CAPTIONS, "x" * 2001, " "]
    entries[0]["sentences"] = [
        {"raw": text, "sentid": number} for number, text in enumerate(sentences)
    ]
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": entries, "dataset": "small"}))
    out = tmp_path / "elsewhere" / "test.tsv"
    arguments = ("--images", tmp_path / "images", "--splits", "test", "--out", out)
    assert write_table(tmp_path, *arguments, name="flickr30k") == 0
    (record,), dropped = read_table(out)
    assert record.captions == list(ODD_CAPTIONS.values())
    assert dropped == {"long caption": 1, "empty caption": 1}
    assert record.image_path == tmp_path / "images" / "1000.jpg"


def test_errors_print_one_line_and_do_not_change_the_table(coco, capsys):
    out = coco / "test.tsv"
    out.write_text("as before")
    common_options = ("--images", coco, "--out", out, "--splits")
    assert write_table(coco, *common_options, "test", "val") == 1
    assert "split='val'" in error_of(capsys)
    (coco / "val2014" / coco_name(2)).unlink()
    assert write_table(coco, *common_options, "test") == 1
    message = error_of(capsys)
    assert "1 of 6 images" in message and coco_name(2) in message
    assert out.read_text() == "as before"
    assert write_table(coco, *common_options, "test", "--allow-missing") == 0
    assert "5 images" in capsys.readouterr().out and len(read_table(out)[0]) == 5
    csv_options = ("--images", coco, "--out", "a.csv", "--splits", "test")
    assert write_table(coco, *csv_options) == 1
    # The rule about the word test is checked before the suffix.
    assert "karpathy_test.tsv" in error_of(capsys)
    assert write_table(coco, *csv_options[:-1], "restval") == 1
    assert "a.csv" in error_of(capsys)
    unnamed_options = ("--images", coco, "--out", coco / "latest.tsv", "--splits")
    assert write_table(coco, *unnamed_options, "restval", "test") == 1
    assert "karpathy_test.tsv" in error_of(capsys)
    assert not (coco / "latest.tsv").exists()
    assert write_table(coco, *unnamed_options, "restval") == 0

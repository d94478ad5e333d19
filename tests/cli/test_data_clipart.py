"""`align-keras data clipart`: its table holds the texts of the drawings."""

import json
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_part

DRAWING = """<svg xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><metadata><rdf:RDF><Work>
  <dc:title>{title}</dc:title><dc:description>{description}</dc:description>
  <dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
</Work></rdf:RDF></metadata></svg>"""


def write(root, name, title=None, description="", keywords=(), picture=True):
    drawing, png = (root / end / f"{name}.{end}" for end in ("svg", "png"))
    for path in (drawing, png):
        path.parent.mkdir(parents=True, exist_ok=True)
    if picture:
        Image.new("RGB", (40, 30)).save(png)
    if title is not None:
        items = "".join(f"<rdf:li>{escape(own)}</rdf:li>" for own in keywords)
        text = DRAWING.format(
            title=escape(title), description=escape(description), keywords=items
        )
        drawing.write_text(text, "utf-8")


def write_table(*arguments):
    """Runs the command and returns its exit code."""
    return main(["data", "clipart", *map(str, arguments)])


def read(table):
    counter, pairs = DropCounter(), []
    for part in open_source(f"table:{table}").parts():
        pairs += read_part(part, counter)
    return pairs, counter


def test_each_text_is_a_caption_as_it_is(tmp_path, capsys):
    root = tmp_path / "clip #art"
    odd = 'EPS from http://aiga.org, "B&W" <by> käse@x.org\u2028line'
    write(
        root, "animals/cat_01", "Part of the Flat Icon Collection", odd, ["cat", "0x"]
    )
    write(root, "animals/birds/dove", "Dove\n  (white)", "", ["bird"])
    write(root, "zebra", "Zebra", picture=False)
    out = tmp_path / "new" / "clipart.jsonl"
    assert write_table("--root", root, "--out", out) == 0
    summary = "wrote 2 titles, 1 descriptions and 2 keyword lists of 2 images"
    assert summary in capsys.readouterr().out
    pairs, counter = read(out)
    dove, cat = (
        str(root / f"png/animals/{own}.png") for own in ("birds/dove", "cat_01")
    )
    page = "openclipart/animals/"
    assert [(own.image, own.caption, own.rule, own.page_url) for own in pairs] == [
        (dove, "Dove (white)", "title", f"{page}birds/dove.svg"),
        (dove, "bird", "caption", f"{page}birds/dove.svg"),
        (cat, "Part of the Flat Icon Collection", "title", f"{page}cat_01.svg"),
        (cat, odd.replace("\u2028", " "), "caption", f"{page}cat_01.svg"),
        (cat, "cat, 0x", "caption", f"{page}cat_01.svg"),
    ]
    assert not counter.bad and not counter.filtered


def test_pictures_without_texts_are_counted(tmp_path, capsys):
    write(tmp_path, "a", "")
    write(tmp_path, "b")
    write(tmp_path, "c", "Sea")
    (tmp_path / "svg" / "d.svg").write_text("<svg broken")
    Image.new("L", (9, 9)).save(tmp_path / "png" / "d.png")
    out = tmp_path / "t.jsonl"
    assert write_table("--root", tmp_path, "--out", out) == 0
    assert "4 images (3 images without text)" in capsys.readouterr().out
    assert [json.loads(row)["caption"] for row in out.open()] == ["Sea"]


@pytest.mark.parametrize("missing", ["png", "svg"])
def test_errors_take_a_line_and_leave_the_table(tmp_path, missing, capsys):
    write(tmp_path, "a", "A")
    out = tmp_path / "t.jsonl"
    out.write_text("as before")
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert write_table("--root", tmp_path, "--out", out) == 1
    message = capsys.readouterr().err
    assert message.startswith("align-keras data: error: --root must hold png/ and svg/")
    assert "openclipart-svg" in message and message.count("\n") == 1
    assert out.read_text() == "as before"
    assert write_table("--out", tmp_path / "t.csv") == 1
    message = capsys.readouterr().err
    assert "--out must end in .jsonl. Received: t.csv. Rename it." in message

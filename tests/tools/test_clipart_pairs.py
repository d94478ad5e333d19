"""What the tool writes is what the drawings say, read back as a source."""

import json
import pathlib
import runpy
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_part

ROOT = pathlib.Path(__file__).resolve().parents[2]
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


def run(*arguments):
    """Runs the tool here; returns what it dies of, a str, or None."""
    main = runpy.run_path(str(ROOT / "tools" / "clipart_pairs.py"))["main"]
    try:
        main([str(own) for own in arguments])
    except SystemExit as error:
        assert error.code.count("\n") == 0
        return error.code


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
    assert run("--root", root, "--out", out) is None
    told = "wrote 2 titles, 1 descriptions and 2 lines of keywords of 2 pictures"
    assert told in capsys.readouterr().out
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
    assert run("--root", tmp_path, "--out", out) is None
    assert "4 pictures (3 of them without any)" in capsys.readouterr().out
    assert [json.loads(row)["caption"] for row in out.open()] == ["Sea"]


@pytest.mark.parametrize("missing", ["png", "svg"])
def test_mistakes_take_a_line_and_leave_the_table(tmp_path, missing):
    write(tmp_path, "a", "A")
    out = tmp_path / "t.jsonl"
    out.write_text("as before")
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert "openclipart-svg" in run("--root", tmp_path, "--out", out)
    assert out.read_text() == "as before"
    assert "must end in .jsonl, received t.csv" in run("--out", tmp_path / "t.csv")

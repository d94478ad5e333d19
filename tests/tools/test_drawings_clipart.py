"""Tests of caption cleaning with texts from the Open Clip Art Library."""

import pytest

from tools.drawings.clipart import (
    SvgMetadata,
    clean_file_name,
    clipart_captions,
    read_svg_metadata,
    without_shared_captions,
)


@pytest.mark.parametrize(
    ("stem", "author", "words"),
    [
        ("magnifying_glass_olivier_01", "olivier_pilot", "magnifying glass"),
        ("raccoon_ganson", "gerald_g", "raccoon"),
        ("firewall2_hash_0x89c79d4_01", "hash_0x89c79d4", "firewall"),
        ("pizza_pepperoni_bw", "", "pizza pepperoni black and white"),
        ("star_34pt05step", "codifiedivining", "star"),
        ("pear", "pearl_buck", "pear"),
        ("007", "", ""),
    ],
)  # fmt: skip
def test_file_names_become_words(stem, author, words):
    assert clean_file_name(stem, {author} - {""}) == words


@pytest.mark.parametrize(
    ("title", "author", "cleaned"),
    [
        ("Clipart by Nicu Buculei - arrow08_4", "Nicu Buculei", "arrow"),
        ("Spaghetti and Sauce (B and W)", "Gerald G.",
         "Spaghetti and Sauce black and white"),
        ("books-aj.svg", "AJ", "books-aj"),
        ("Chalet Frédéric Moser", "Frédéric Moser", "Chalet"),
        ("Stefan Graubner", "Stefan Graubner", None),
        ("unsorted", "x", None),
    ],
)  # fmt: skip
def test_titles_are_cleaned(title, author, cleaned):
    metadata = SvgMetadata(title=title, authors=(author,))
    assert clipart_captions(metadata, "1").get("title") == cleaned


def test_keywords_lose_noise_numbers_and_authors():
    metadata = SvgMetadata(
        keywords=("hash", "0xa1253c0", "11", "jane doe", "signs_and_symbols")
        + ("unsorted", "Clip Art", "food", "mapsym", "food"),
        authors=("Jane Doe",),
    )
    assert clipart_captions(metadata, "1") == {
        "keywords": "signs and symbols, food, map symbol"
    }


@pytest.mark.parametrize(
    ("description", "cleaned"),
    [
        ("A magnifying glass", "A magnifying glass"),
        ("jean.victor.balin@gmail.com", None),
        ("Data from: http://eol.jsc.nasa.gov", "Data from"),
        ("A flag. " + "Long history " * 30, "A flag."),
        ("word " * 60, None),
        ("x" * 200, "x" * 200),
    ],
)
def test_descriptions_are_cleaned(description, cleaned):
    captions = clipart_captions(SvgMetadata(description=description), "1")
    assert captions.get("description") == cleaned


def test_captions_shared_by_too_many_images_are_dropped():
    titles = [{"title": "Flat Icons", "file_name": f"icon {n}"} for n in range(11)]
    titles += [{"title": "Rare", "file_name": "book"} for _ in range(10)]
    captions = without_shared_captions(titles)
    assert captions[0] == ["icon 0"]
    assert captions[11] == ["Rare", "book"]
    names = [{"file_name": "Star"} for _ in range(61)] + [{"file_name": "book"}] * 60
    captions = without_shared_captions(names)
    assert captions[0] == [] and captions[61] == ["book"]


def test_copies_of_the_title_are_dropped_unless_the_title_is_dropped():
    captions = {
        "title": "Flying Spaghetti Monster",
        "description": "flying spaghetti monster.",
        "file_name": "flying spaghetti monste",
    }
    assert without_shared_captions([captions]) == [["Flying Spaghetti Monster"]]
    shared = [{"title": "Lightning", "file_name": "lightning"}] * 11
    assert without_shared_captions(shared)[0] == ["lightning"]


DRAWING = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<svg xmlns="http://www.w3.org/2000/svg">
  <metadata>
    <rdf:RDF xmlns:cc="http://web.resource.org/cc/"
        xmlns:dc="http://purl.org/dc/elements/1.1/"
        xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <cc:Work rdf:about="">
        <dc:title> Cheese </dc:title>
        <dc:description>Käse &amp;
          crackers</dc:description>
        <dc:subject><rdf:Bag>
          <rdf:li></rdf:li><rdf:li>food</rdf:li><rdf:li>dairy</rdf:li>
        </rdf:Bag></dc:subject>
        <dc:publisher><cc:Agent>
          <dc:title>Open Clip Art Library</dc:title>
        </cc:Agent></dc:publisher>
        <dc:creator><cc:Agent><dc:title>Jane Doe</dc:title></cc:Agent></dc:creator>
      </cc:Work>
    </rdf:RDF>
  </metadata>
  <path d="M 50.0,90.0"/>
</svg>
"""


def write(folder, content):
    path = folder / "drawing.svg"
    path.write_text(content, "utf-8")
    return path


def test_all_fields_of_the_metadata_are_read(tmp_path):
    content = DRAWING
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata(
        title="Cheese",
        description="Käse & crackers",
        keywords=("food", "dairy"),
        authors=("Jane Doe",),
    )


@pytest.mark.parametrize("content", ["", "no xml", "<svg><metadata>", "<svg/>"])
def test_a_drawing_without_metadata_has_empty_fields(tmp_path, content):
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata()


def test_exponential_entities_are_not_expanded(tmp_path):
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    content = DRAWING.replace("<svg", f"<!DOCTYPE svg [{entities}]>\n<svg", 1)
    content = content.replace("Cheese", "&a9;")
    assert read_svg_metadata(write(tmp_path, content)) == SvgMetadata()

"""Caption cleaning on lines from the collection itself."""

import pytest

from align_keras.corpus.clipart_captions import (
    clean_file_name,
    clipart_captions,
    without_shared_captions,
)
from align_keras.corpus.svg_metadata import SvgMetadata


@pytest.mark.parametrize(
    ("stem", "author", "words"),
    [
        ("magnifying_glass_olivier_01", "olivier_pilot", "magnifying glass"),
        ("esperimento_chimico_arch_01", "architetto_francesco_rollandin",
         "esperimento chimico"),
        ("45_rpm_record_gerald_g._03", "gerald_g", "45 rpm record"),
        ("raccoon_ganson", "gerald_g", "raccoon"),
        ("fireworks_ganson1", "gerald_g", "fireworks"),
        ("bullet_hole_linda_kim_s", "linda_kim", "bullet hole"),
        ("firewall2_hash_0x89c79d4_01", "hash_0x89c79d4", "firewall"),
        ("elder_sign_nurbldoff_04r", "nurbldoff", "elder sign"),
        ("pizza_pepperoni_bw", "", "pizza pepperoni black and white"),
        ("gnome-mime-vector", "andy_fitzsimon", "vector"),
        ("star_34pt05step", "codifiedivining", "star"),
        ("2uparrow", "jose_hevia", "uparrow"),
        ("home14", "jose_hevia", "home"),
        ("pear", "pearl_buck", "pear"),
        ("007", "", ""),
    ],
)  # fmt: skip
def test_file_names(stem, author, words):
    assert clean_file_name(stem, {author} - {""}) == words


@pytest.mark.parametrize(
    ("title", "author", "cleaned"),
    [
        ("Clipart by Nicu Buculei - arrow08_4", "Nicu Buculei", "arrow"),
        ("LED Circle (Green)", "Jean-Victor Balin", "LED Circle Green"),
        ("Spaghetti and Sauce (B and W)", "Gerald G.",
         "Spaghetti and Sauce black and white"),
        ("as_trefle", "Jean-Victor Balin", "as trefle"),
        ("Tigre 04", "Architetto Francesco Rollandin", "Tigre"),
        ("books-aj.svg", "AJ", "books-aj"),
        ("Chalet Frédéric Moser", "Frédéric Moser", "Chalet"),
        ("Stefan Graubner", "Stefan Graubner", None),
        ("unsorted", "x", None),
        ("", "x", None),
    ],
)  # fmt: skip
def test_titles(title, author, cleaned):
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
def test_descriptions(description, cleaned):
    captions = clipart_captions(SvgMetadata(description=description), "1")
    assert captions.get("description") == cleaned


def test_sharing_limits_by_kind():
    titles = [{"title": "Flat Icons", "file_name": f"icon {n}"} for n in range(11)]
    titles += [{"title": "Rare", "file_name": "book"} for _ in range(10)]
    kept = without_shared_captions(titles)
    assert kept[0] == ["icon 0"]
    assert kept[11] == ["Rare", "book"]
    names = [{"file_name": "Star"} for _ in range(61)] + [{"file_name": "book"}] * 60
    kept = without_shared_captions(names)
    assert kept[0] == [] and kept[61] == ["book"]


def test_repeats_and_cut_names_go_but_only_where_the_title_stays():
    captions = {
        "title": "Flying Spaghetti Monster",
        "description": "flying spaghetti monster.",
        "file_name": "flying spaghetti monste",
    }
    assert without_shared_captions([captions]) == [["Flying Spaghetti Monster"]]
    shared = [{"title": "Lightning", "file_name": "lightning"}] * 11
    assert without_shared_captions(shared)[0] == ["lightning"]


def test_one_picture_counts_once_for_a_caption_that_it_has_twice():
    own = {"title": "Apple", "file_name": "apple"}
    assert without_shared_captions([own] * 10)[0] == ["Apple"]

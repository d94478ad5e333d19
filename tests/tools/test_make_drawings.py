"""Tests of the script that writes drawings, with small packages in their formats."""

import json

import numpy as np
import pytest
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.source import open_source, read_part
from align_keras.datasets.prepared_pairs import is_prepared
from tools import make_drawings
from tools.drawings.drawing import Drawing

SVG = """<svg xmlns="http://www.w3.org/2000/svg"
  xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><metadata><rdf:RDF><Work>
<dc:title>{title}</dc:title><dc:description>{description}</dc:description>
<dc:subject><rdf:Bag><rdf:li>{keyword}</rdf:li></rdf:Bag></dc:subject>
</Work></rdf:RDF></metadata></svg>
"""


def add_clipart(root, name, title, description="", keyword="", color="black"):
    for kind in ("png", "svg"):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), color).save(root / "png" / f"{name}.png")
    text = SVG.format(title=title, description=description, keyword=keyword)
    (root / "svg" / f"{name}.svg").write_text(text, "utf-8")


def run(tmp_path, *names):
    make_drawings.main(
        [
            *names,
            f"--out={tmp_path / 'out'}",
            f"--node-modules={tmp_path}",
            f"--clipart={tmp_path / 'openclipart'}",
        ]
    )


def read_rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def clipart(tmp_path):
    root = tmp_path / "openclipart"
    add_clipart(root, "animals/horse_01", "Cavallo", "A horse.", "mammal", "brown")
    add_clipart(root, "unsorted/horse", "Cavallo", color="brown")
    add_clipart(root, "unsorted/snow", "Snow", color="white")
    for number in range(61):
        add_clipart(root, f"shapes/star_{number}pt5step", "gramastar", color="gold")
    (root / "svg/unsorted/horse.svg").write_text("<svg><<<")
    return root


def test_a_failed_run_keeps_the_earlier_drawings(clipart, tmp_path):
    run(tmp_path, "clipart")
    table = (tmp_path / "out/clipart/pairs.jsonl").read_bytes()
    clipart.rename(tmp_path / "moved")
    with pytest.raises(SystemExit):
        run(tmp_path, "clipart")
    assert (tmp_path / "out/clipart/pairs.jsonl").read_bytes() == table


def test_a_folder_with_other_files_is_not_replaced(clipart, tmp_path):
    letter = tmp_path / "out/clipart/letter.txt"
    letter.parent.mkdir(parents=True)
    letter.touch()
    with pytest.raises(SystemExit):
        run(tmp_path, "clipart")
    assert letter.exists()


def test_clipart_has_cleaned_captions(clipart, tmp_path, capsys):
    run(tmp_path, "clipart")
    folder = tmp_path / "out/clipart"
    rows = {row["id"]: row for row in read_rows(folder / "pairs.jsonl")}
    # The image of a damaged SVG file has the file name as its caption.
    assert {name: row["caption"] for name, row in rows.items()} == {
        "animals/horse_01": ["Cavallo", "A horse.", "horse"],
        "unsorted/horse": ["horse"],
    }
    assert rows["animals/horse_01"]["category"] == "animals"
    # 8 pixels and a margin on both sides.
    assert Image.open(folder / "images/animals/horse_01.png").size == (10, 10)
    # The two images have equal pixels.
    assert len({row["split"] for row in rows.values()}) == 1
    printed = capsys.readouterr().out
    assert "white on white" in printed and "images share" in printed


def test_the_table_of_clipart_has_uncleaned_texts(clipart, tmp_path):
    run(tmp_path, "clipart_texts")
    counter = DropCounter()
    (part,) = open_source(f"table:{tmp_path}/out/clipart_texts.jsonl").parts()
    pairs = list(read_part(part, counter))
    assert [(pair.caption, pair.rule) for pair in pairs[:3]] == [
        ("Cavallo", "title"),
        ("A horse.", "caption"),
        ("mammal", "caption"),
    ]
    assert len(pairs) == 3 + 61 + 1 and not counter.bad


EMOJI = [
    {"unified": "1F422", "name": "TURTLE", "short_names": ["turtle"]},
    # CLDR writes the heart without the variation selector FE0F.
    {"unified": "2764-FE0F", "name": "HEAVY BLACK HEART", "short_names": ["heart"]},
    {"unified": "1F3FB", "name": "EMOJI MODIFIER", "category": "Component"},
    {"unified": "1F512", "name": "LOCK", "has_img_twitter": False},
    {"unified": "1F197", "name": "1"},
]
NAMES = {
    "en": {"🐢": {"default": ["tortoise", "turtle"], "tts": ["turtle"]}},
    "cs": {"🐢": {"tts": ["želva"]}, "❤": {"default": ["láska"]}},
    "und": {},
}


@pytest.fixture
def emoji(tmp_path):
    for vendor in ("google", "twitter", "facebook"):
        package = tmp_path / f"emoji-datasource-{vendor}"
        (package / f"img/{vendor}/64").mkdir(parents=True)
        entries = [{**entry, "image": f"{entry['unified']}.png"} for entry in EMOJI]
        (package / "emoji.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            image = Image.new("RGBA", (64, 64))
            image.paste((len(vendor), number, 9, 255), (16, 16, 48, 48))
            image.save(package / f"img/{vendor}/64" / entry["image"])
    for package, kind, names in (
        ("cldr-annotations-full", "annotations", NAMES),
        ("cldr-annotations-derived-full", "annotationsDerived", {}),
    ):
        (tmp_path / package / kind).mkdir(parents=True)
        for language, annotations in names.items():
            path = tmp_path / package / kind / language / "annotations.json"
            path.parent.mkdir()
            path.write_text(json.dumps({kind: {"annotations": annotations}}), "utf-8")


def test_emoji_of_two_vendors_are_written(emoji, tmp_path):
    run(tmp_path, "emoji")
    folder = tmp_path / "out/emoji"
    rows = {row["id"]: row for row in read_rows(folder / "pairs.jsonl")}
    assert {name: row["caption"] for name, row in rows.items()} == {
        "google/1f422": ["turtle"],
        "google/1f512": ["lock"],
        "google/2764-fe0f": ["heart"],
        "twitter/1f422": ["turtle"],
        "twitter/2764-fe0f": ["heart"],
    }
    image = np.asarray(Image.open(folder / "images/twitter/1f422.png"))
    assert image.shape == (80, 80, 3)
    # Transparent pixels become white, and the drawing keeps its color.
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[40, 40].tolist() == [len("twitter"), 0, 9]
    run(tmp_path, "emoji_facebook")
    table = read_rows(tmp_path / "out/emoji_facebook.jsonl")
    assert [row["caption"] for row in table] == [["turtle"], ["lock"], ["heart"]]


def test_names_of_emoji_have_a_table_for_each_language(emoji, tmp_path):
    run(tmp_path, "emoji_names")
    folder = tmp_path / "out/emoji_names"
    assert sorted(path.name for path in folder.iterdir()) == ["cs.jsonl", "en.jsonl"]
    captions = [row["caption"] for row in read_rows(folder / "cs.jsonl")]
    assert captions == [["želva"], ["láska"]] * 2
    captions = [row["caption"] for row in read_rows(folder / "en.jsonl")]
    assert captions == [["turtle", "tortoise"]] * 2


def test_drawings_of_a_group_and_of_equal_pixels_share_a_split():
    def drawing(group):
        return Drawing("", None, (), "", lambda source: None, group)

    chain = [("a", "k1"), ("b", "k1"), ("b", "k2"), ("c", "k3")]
    keys = make_drawings.split_keys([(drawing(group), key) for group, key in chain])
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert make_drawings.split_keys([(drawing(""), "k1")]) == ["k1"]


RED = '<path fill="red" d="M0 0h32v32H0z"/>'
# A circle in the color of the text.
DOT = '<circle cx="16" cy="16" r="12" fill="currentColor"/>'
ICONS = {
    "red-square-2": {"body": RED},
    "dot": {"body": DOT},
    # Twice as wide as high, and its box does not begin at the origin.
    "wide": {
        "body": '<path fill="blue" d="M10 10h40v20h-40z"/>',
        "left": 10,
        "top": 10,
        "width": 40,
        "height": 20,
    },
    "old": {"body": RED, "hidden": True},
    "wave-medium-skin-tone": {"body": DOT},
    "123": {"body": RED},
    "white-page": {"body": RED.replace("red", "white")},
    "broken": {"body": "<path"},
}
ALIASES = {
    "crimson-square": {"parent": "red-square-2"},
    "turned": {"parent": "red-square-2", "rotate": 1},
}


def install_icons(folder, name, icons, aliases=(), category="Emoji"):
    package = folder / "@iconify-json" / name
    package.mkdir(parents=True)
    content = {"width": 32, "height": 32, "icons": icons, "aliases": dict(aliases)}
    (package / "icons.json").write_text(json.dumps(content), "utf-8")
    (package / "info.json").write_text(json.dumps({"category": category}), "utf-8")


def test_an_icon_set_is_rendered(tmp_path):
    pytest.importorskip("resvg_py")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), "blue").save(photo)
    link = f'<image href="{photo}" width="32" height="32"/>'
    icons = {**ICONS, "linked": {"body": RED + link}}
    install_icons(tmp_path, "shapes", icons, ALIASES)
    run(tmp_path, "iconify/shapes")
    folder = tmp_path / "out/iconify/shapes"
    assert is_prepared(folder)
    rows = {row["id"]: row for row in read_rows(folder / "pairs.jsonl")}
    assert set(rows) == {"red-square-2", "dot", "wide", "linked"}
    # A turned alias is no caption.
    assert rows["red-square-2"]["caption"] == ["red square", "crimson square"]
    images = {
        name: np.asarray(Image.open(folder / row["image"]))
        for name, row in rows.items()
    }
    # 256 pixels and a margin of an eighth on each side.
    assert images["dot"].shape == (320, 320, 3)
    assert (images["red-square-2"][32:288, 32:288] == [255, 0, 0]).all()
    assert images["red-square-2"][31].min() == 255
    # An icon in the color of the text is black.
    assert (images["dot"][160, 160] == 0).all()
    is_blue = (images["wide"] == [0, 0, 255]).all(axis=-1)
    assert (is_blue.any(0).sum(), is_blue.any(1).sum()) == (256, 128)
    # The links to other files are removed.
    np.testing.assert_array_equal(images["linked"], images["red-square-2"])


def test_variants_in_style_are_left_out(tmp_path):
    pytest.importorskip("resvg_py")
    names = ("acorn", "acorn-thin", "acorn-fill", "traffic-light")
    icons = {name: {"body": RED} for name in names}
    install_icons(tmp_path, "ph", icons, category="UI")
    run(tmp_path, "iconify/ph")
    rows = read_rows(tmp_path / "out/iconify/ph/pairs.jsonl")
    # `traffic-light` ends with a style of this set too.
    assert {row["id"]: row["caption"] for row in rows} == {
        "acorn": ["acorn"],
        "acorn-fill": ["acorn"],
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos", "clipart, emoji"),
        ("clipart", "apt-get install openclipart-png openclipart-svg"),
        ("emoji", "npm install emoji-datasource-google"),
    ],
)
def test_missing_packages_are_named(tmp_path, capsys, name, message):
    with pytest.raises(SystemExit):
        run(tmp_path, name)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_drawings_of_an_experiment_are_known():
    names = make_drawings.drawings_of_experiment("stamps_warm_start")
    assert names == ["clipart", "emoji"]
    assert len(make_drawings.drawings_of_experiment("align_small_en")) == 28

"""`align-keras data emoji`: the tables have the names of small npm packages."""

import json
import pathlib

import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_part

EMOJI = [
    {"unified": "1F422", "name": "TURTLE", "category": "Animals & Nature"},
    # CLDR writes the heart without the variation selector FE0F.
    {"unified": "2764-FE0F", "name": "HEAVY BLACK HEART", "category": "Smileys"},
    {"unified": "1F1E9-1F1EA", "name": "Germany Flag", "category": "Flags"},
    {"unified": "1F3FB", "name": "EMOJI MODIFIER", "category": "Component"},
    {"unified": "1F512", "name": "LOCK", "category": "O", "has_img_twitter": False},
]
NAMES = {
    "en": {
        "🐢": {"default": ["tortoise", "turtle", "animal"], "tts": ["turtle"]},
        "❤": {"default": ["heart"], "tts": ["red heart"]},
        "🏻": {"default": ["skin tone"], "tts": ["light skin tone"]},
        "🔒": {"default": ["locked"], "tts": ["locked"]},
    },
    "cs": {"🐢": {"default": ["želva"], "tts": ["želva"]}, "❤": {"default": ["láska"]}},
    "de-CH": {"🔒": {"tts": ["Schloss, ‹zu›"]}, "🐢": {}},
    "und": None,
}
DERIVED = {"en": {"🇩🇪": {"default": ["flag"], "tts": ["flag: Germany"]}}}


def install_packages(folder):
    """Writes small versions of the npm packages and returns their folder."""
    for vendor in ("google", "twitter"):
        package = folder / f"emoji-datasource-{vendor}"
        image_folder = package / "img" / vendor / "64"
        image_folder.mkdir(parents=True)
        entries = [
            emoji | {"image": f"{emoji['unified'].lower()}.png"} for emoji in EMOJI
        ]
        (package / "emoji.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            Image.new("RGB", (64, 64), (0, 0, number)).save(
                image_folder / entry["image"]
            )
    for package, kind, names in (
        ("cldr-annotations-full", "annotations", NAMES),
        ("cldr-annotations-derived-full", "annotationsDerived", DERIVED),
    ):
        for language, annotations in names.items():
            path = folder / package / kind / language / "annotations.json"
            path.parent.mkdir(parents=True)
            content = {"identity": {}} | (
                {} if annotations is None else {"annotations": annotations}
            )
            path.write_text(json.dumps({kind: content}, ensure_ascii=False), "utf-8")
    return folder


def write_tables(*arguments):
    """Runs the command and returns its exit code."""
    return main(["data", "emoji", *map(str, arguments)])


def error_of(capsys):
    """Returns the only line on stderr."""
    message = capsys.readouterr().err
    assert message.startswith("align-keras data: error: ")
    assert message.count("\n") == 1
    return message


def read_tables(tables):
    """Returns the pairs of a folder of tables as (vendor, code, caption, language)."""
    counter, pairs = DropCounter(), []
    for part in open_source(f"table:{tables}").parts():
        for pair in read_part(part, counter):
            path = pathlib.Path(pair.image)
            assert path.is_file()
            pairs.append((path.parts[-3], path.stem, pair.caption, pair.language))
    assert not counter.bad and not counter.filtered
    return pairs


def test_tables_have_names_and_keywords_in_every_language(tmp_path, capsys):
    modules = install_packages(tmp_path / "node_modules")
    out = tmp_path / "tables"
    assert write_tables("--node-modules", modules, "--out", out) == 0
    summary = "wrote 18 texts of up to 7 images in 3 languages"
    assert capsys.readouterr().out.startswith(summary)
    assert sorted(path.name for path in out.iterdir()) == [
        "cs.jsonl",
        "de-CH.jsonl",
        "en.jsonl",
    ]
    shared_pairs = [
        ("1f1e9-1f1ea", "flag: Germany", "en"),
        ("1f1e9-1f1ea", "flag", "en"),
        ("1f422", "turtle", "en"),
        ("1f422", "tortoise, animal", "en"),
        ("1f422", "želva", "cs"),
        ("2764-fe0f", "red heart", "en"),
        ("2764-fe0f", "heart", "en"),
        ("2764-fe0f", "láska", "cs"),
    ]
    expected = [
        (vendor, *pair) for vendor in ("google", "twitter") for pair in shared_pairs
    ]
    expected += [("google", "1f512", "locked", "en")]
    expected += [("google", "1f512", "Schloss, ‹zu›", "de-ch")]
    assert sorted(read_tables(out)) == sorted(expected)


def test_languages_are_selected_and_checked(tmp_path, capsys):
    modules, out = install_packages(tmp_path / "node_modules"), tmp_path / "tables"
    arguments = ("--node-modules", modules, "--out", out, "--languages")
    assert write_tables(*arguments, "cs", "und") == 0
    assert [path.name for path in out.iterdir()] == ["cs.jsonl"]
    assert write_tables(*arguments, "cs", "xx") == 1
    message = error_of(capsys)
    assert "--languages must be among cs, de-CH, en, und. Received: xx." in message


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        ("cldr-annotations-full", "cldr-annotations-full"),
        ("cldr-annotations-derived-full", "cldr-annotations-derived-full"),
        ("emoji-datasource-twitter/emoji.json", "emoji-datasource-twitter"),
    ],
)
def test_a_missing_package_is_named(tmp_path, missing, package, capsys):
    modules = install_packages(tmp_path / "node_modules")
    (modules / missing).rename(tmp_path / "elsewhere")
    tables = ("--out", tmp_path / "tables")
    assert write_tables("--node-modules", modules, *tables) == 1
    assert f"Run npm install {package}, or use" in error_of(capsys)
    assert not (tmp_path / "tables").exists()


def test_a_broken_package_is_named(tmp_path, capsys):
    modules = install_packages(tmp_path / "node_modules")
    (modules / "emoji-datasource-google" / "emoji.json").write_text("[{")
    tables = ("--out", tmp_path / "tables")
    assert write_tables("--node-modules", modules, *tables) == 1
    assert "Run npm install emoji-datasource-google again" in error_of(capsys)

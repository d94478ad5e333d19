"""A corpus from its sources to its shards, in one process, and what it's good for."""

import hashlib
import html.parser
import io
import json
import os

import pytest
from PIL import Image

from tests.helpers import small_corpus
from tests.helpers.small_corpus import ONE_WORKER, arguments, caption, funnel_of, run

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
pytest.importorskip("warcio")

FUNNEL = {
    "pairs found": 56,
    # Of the pages,
    "empty": 1,
    "missing": 1,
    "unreadable": 1,
    # and of the archives, which lose one picture of ten to the damage.
    "broken record": 1,
    "empty shard": 1,
    "truncated shard": 1,
    "shorter side": 1,
    "aspect": 1,
    "personal data": 1,
    "few unigrams": 1,
    "pairs that pass the filters": 46,
    "pairs whose image is not downloaded": 3,
    "images, with all their captions": 41,
    "refused": 1,
    "truncated": 1,
    "duplicate": 2,
    "near an evaluation image": 2,
    "near duplicate": 1,
    "images in the shards": 34,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The command's arguments but for --out, with everything that it takes."""
    folder = tmp_path_factory.mktemp("sources")
    hook = small_corpus.write_hook(folder / "hook")
    against = small_corpus.write_evaluation(folder / "evaluation")
    own = small_corpus.write_sources(folder)
    own.append(small_corpus.write_archives(folder / "archives"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "hook")
        yield own, (*ONE_WORKER, hook, f"--against={against}")


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    """The corpus's folder, and what the command printed."""
    out = tmp_path_factory.mktemp("corpus")
    own, options = sources
    return out, run(*arguments("build", own, out, *options))


@pytest.fixture(scope="module")
def examples(built):
    """The shards' examples by their file's name, read by TFDS alone."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(built[0] / "web_pairs/1.0.0")
    rows = tfds.as_numpy(builder.as_dataset("train", decoders=_undecoded()))
    return {os.path.basename(own["location"].decode()): own for own in rows}


def _undecoded():
    import tensorflow_datasets as tfds

    return {"image": tfds.decode.SkipDecoding()}


def captions_of(example):
    return [text.decode() for text in example["captions"]]


def test_the_funnel_counts_everything(built):
    assert funnel_of(built[1]) == FUNNEL


def test_the_index_is_of_the_shards_as_they_are(built):
    import tensorflow_datasets as tfds

    folder = built[0] / "web_pairs/1.0.0"
    index = json.loads((folder / "index.json").read_text())
    info = tfds.builder_from_directory(folder).info
    assert index["pictures"] == index["splits"]["train"] == 34
    assert info.splits["train"].num_examples == 34
    names = [own["file"] for own in index["shards"]]
    assert names == sorted(path.name for path in folder.glob("*.tfrecord*"))
    for own in index["shards"]:
        content = (folder / own["file"]).read_bytes()
        assert own["sha256"] == hashlib.sha256(content).hexdigest()
        assert own["bytes"] == len(content)


def test_tfds_loads_it_by_its_name(built):
    import tensorflow_datasets as tfds

    loaded = tfds.load("web_pairs", data_dir=str(built[0]), split="train")
    assert len(loaded) == 34
    assert next(iter(loaded))["image"].shape[-1] == 3


def test_pictures_and_captions_are_those_of_the_sources(examples):
    # Of 1 and 3 the copies may stay, which have the captions of both.
    stays = [0, 2, 4, 5, 6, *range(8, 12), 20, 21, *range(23, 28), *range(30, 38)]
    by_number = {int(name[:2]): own for name, own in examples.items() if name[2] == "."}
    assert set(stays) <= set(by_number)
    for number in stays:
        own = by_number[number]
        assert caption(number) in captions_of(own)
        image = Image.open(io.BytesIO(own["image"]))
        assert image.size == (own["width"], own["height"]) == (260, 230)
        wanted = small_corpus.draw(number).resize((26, 23))
        # JPEG changes little: the mean of what differs is far below another's.
        assert _difference(image.resize((26, 23)), wanted) < 6
        assert _difference(small_corpus.draw(99).resize((26, 23)), wanted) > 20


def _difference(first, second):
    from PIL import ImageChops, ImageStat

    return max(ImageStat.Stat(ImageChops.difference(first, second)).mean)


def test_captions_of_equal_pixels_are_merged(examples):
    for number, texts in {1: [], 3: ["a third view of it"]}.items():
        names = [f"{number:02}.png", f"copy{number}.bmp"]
        [own] = [examples[name] for name in names if name in examples]
        copied = f"the same {small_corpus.NOUNS[number]} in another file"
        assert captions_of(own) == sorted([caption(number), copied, *texts])
        kinds = [source.decode().partition(":")[0] for source in own["sources"]]
        assert sorted(set(kinds)) == ["folder", "html"]


def test_copies_of_the_evaluation_set_and_refused_pictures_are_gone(examples):
    gone = {"07.png", "22.png", "small5.jpg", "29.png", "cut.jpg", "icon.png"}
    assert not gone & set(examples)


def test_the_vocabulary_is_one_that_tokenizers_read(built):
    tokenizers = pytest.importorskip("tokenizers")
    path = built[0] / "vocabulary.txt"
    own = tokenizers.BertWordPieceTokenizer(str(path), lowercase=True)
    tokens = own.encode("A picture of horse number 4").tokens
    assert tokens[1:-1] == ["a", "picture", "of", "horse", "number", "4"]


class Page(html.parser.HTMLParser):
    """Collects a page's tags with their attributes, its texts and tables' rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.rows = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, text):
        self.texts.append(text)
        if self.rows and text.strip() and self.tags[-1][0] in ("th", "td"):
            self.rows[-1].append(text.strip())


@pytest.fixture(scope="module")
def page(built):
    return Page((built[0] / "report.html").read_text(encoding="utf-8"))


def test_the_report_fetches_nothing_and_runs_nothing(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    style = "".join(page.texts)
    assert "@import" not in style and "url(http" not in style
    policy = [own for tag, own in page.tags if tag == "meta" and "http-equiv" in own]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_the_report_shows_captions_as_they_are(page):
    assert small_corpus.HOSTILE in page.texts
    # Of a dropped pair, whose markup has gone with what stood in it.
    assert "a icon" in page.texts
    assert "someone@example.org" not in "".join(page.texts)
    pictures = [own["src"] for tag, own in page.tags if tag == "img"]
    assert len(pictures) > 20
    assert all(own.startswith("data:image/") for own in pictures)


def test_the_reports_numbers_are_those_of_the_funnel(page):
    rows = [row for row in page.rows if len(row) == 2]
    texts = [row[0].removeprefix("− ") for row in rows]
    start = texts.index("pairs found")
    numbers = [int(row[1].replace(",", "")) for row in rows[start : start + 20]]
    assert sorted(numbers) == sorted(FUNNEL.values())
    assert texts[start + 19] == "images in the shards"


walk = os.walk


def backwards(*given, **options):
    """Lists files as another disk does."""
    for place, folders, names in walk(*given, **options):
        folders.reverse()
        names.reverse()
        yield place, folders, names


def test_nothing_is_done_twice(built, sources, monkeypatch):
    out = built[0]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    monkeypatch.setattr("align_keras.runs.corpus_build.run_tasks", _never)
    monkeypatch.setattr("align_keras.runs.corpus_build.learn_vocabulary", _never)
    # Without sources: those of the last call.
    assert run("corpus", "build", f"--out={out}") == built[1]
    own, options = sources
    monkeypatch.setattr(os, "walk", backwards)
    assert run(*arguments("build", own[::-1], out, *options)) == built[1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == times


def _never(*arguments, **options):
    raise AssertionError("run again")


def test_nothing_but_results_stays(built):
    names = [path.name for path in built[0].rglob("*")]
    assert not [name for name in names if name.endswith(".tmp")]
    assert "tasks" not in names and "counts" not in names and "cut" not in names


def test_remote_pictures_are_listed(built, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "urls.parquet"
    said = run("corpus", "urls", f"--out={built[0]}", f"--to={path}")
    assert said == f"wrote the addresses of 3 remote images to {path}\n"
    rows = {own["url"]: own for own in parquet.read_table(path).to_pylist()}
    far = rows["https://example.org/far.jpg"]
    assert far["caption"] == "a picture on another machine"
    assert far["rule"] == "alt" and far["language"] == "en"
    assert far["page_url"].endswith("/pages/index.html")


def test_the_order_of_sources_and_files_makes_no_difference(
    built, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "walk", backwards)
    own, options = sources
    out = tmp_path / "other"
    assert run(*arguments("build", own[::-1], out, *options)) == built[1]
    made = small_corpus.made_files(out)
    assert made == small_corpus.made_files(built[0])
    assert len(made) == 6

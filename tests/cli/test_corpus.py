"""`align-keras corpus build` in one process: funnel, shards, report, repeated runs."""

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

# Lines that the command prints for the sources of `small_corpus`.
FUNNEL = {
    "pairs found": 56,
    # Pairs of the pages whose image cannot be read.
    "empty": 1,
    "missing": 1,
    "unreadable": 1,
    # Damage in the archives. One of their ten images is lost.
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
    """Sources of all kinds, and the options of the command except --out."""
    folder = tmp_path_factory.mktemp("sources")
    hook = small_corpus.write_hook(folder / "hook")
    against = small_corpus.write_evaluation(folder / "evaluation")
    all_sources = small_corpus.write_sources(folder)
    all_sources.append(small_corpus.write_archives(folder / "archives"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "hook")
        yield all_sources, (*ONE_WORKER, hook, f"--against={against}")


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    """Folder of the corpus, and the output of the command."""
    out = tmp_path_factory.mktemp("corpus")
    all_sources, options = sources
    return out, run(*arguments("build", all_sources, out, *options))


@pytest.fixture(scope="module")
def examples(built):
    """Dict from file name to the example in the shards, as TFDS reads it."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(built[0] / "web_pairs/1.0.0")
    rows = tfds.as_numpy(builder.as_dataset("train", decoders=_undecoded()))
    return {os.path.basename(row["location"].decode()): row for row in rows}


def _undecoded():
    import tensorflow_datasets as tfds

    return {"image": tfds.decode.SkipDecoding()}


def captions_of(example):
    return [text.decode() for text in example["captions"]]


def test_the_funnel_counts_everything(built):
    assert funnel_of(built[1]) == FUNNEL


def test_index_json_matches_the_shards(built):
    import tensorflow_datasets as tfds

    folder = built[0] / "web_pairs/1.0.0"
    index = json.loads((folder / "index.json").read_text())
    info = tfds.builder_from_directory(folder).info
    assert index["images"] == index["splits"]["train"] == 34
    assert info.splits["train"].num_examples == 34
    names = [shard["file"] for shard in index["shards"]]
    assert names == sorted(path.name for path in folder.glob("*.tfrecord*"))
    for shard in index["shards"]:
        content = (folder / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)


def test_tfds_loads_the_corpus_by_name(built):
    import tensorflow_datasets as tfds

    loaded = tfds.load("web_pairs", data_dir=str(built[0]), split="train")
    assert len(loaded) == 34
    assert next(iter(loaded))["image"].shape[-1] == 3


def test_images_and_captions_match_the_sources(examples):
    # The images 1 and 3 have copies in another file. The corpus may contain either
    # file.
    kept_numbers = [
        0,
        2,
        4,
        5,
        6,
        *range(8, 12),
        20,
        21,
        *range(23, 28),
        *range(30, 38),
    ]
    by_number = {
        int(name[:2]): example for name, example in examples.items() if name[2] == "."
    }
    assert set(kept_numbers) <= set(by_number)
    for number in kept_numbers:
        example = by_number[number]
        assert caption(number) in captions_of(example)
        image = Image.open(io.BytesIO(example["image"]))
        assert image.size == (example["width"], example["height"]) == (260, 230)
        expected = small_corpus.draw(number).resize((26, 23))
        # JPEG compression changes an image less than two drawings differ.
        assert _difference(image.resize((26, 23)), expected) < 6
        assert _difference(small_corpus.draw(99).resize((26, 23)), expected) > 20


def _difference(first, second):
    from PIL import ImageChops, ImageStat

    return max(ImageStat.Stat(ImageChops.difference(first, second)).mean)


def test_captions_of_equal_pixels_are_merged(examples):
    for number, texts in {1: [], 3: ["a third view of it"]}.items():
        names = [f"{number:02}.png", f"copy{number}.bmp"]
        [example] = [examples[name] for name in names if name in examples]
        copy_caption = f"the same {small_corpus.NOUNS[number]} in another file"
        assert captions_of(example) == sorted([caption(number), copy_caption, *texts])
        kinds = [source.decode().partition(":")[0] for source in example["sources"]]
        assert sorted(set(kinds)) == ["folder", "html"]


def test_evaluation_copies_and_refused_images_are_dropped(examples):
    dropped_names = {"07.png", "22.png", "small5.jpg", "29.png", "cut.jpg", "icon.png"}
    assert not dropped_names & set(examples)


def test_the_tokenizers_library_reads_the_vocabulary(built):
    tokenizers = pytest.importorskip("tokenizers")
    path = built[0] / "vocabulary.txt"
    tokenizer = tokenizers.BertWordPieceTokenizer(str(path), lowercase=True)
    tokens = tokenizer.encode("A picture of horse number 4").tokens
    assert tokens[1:-1] == ["a", "picture", "of", "horse", "number", "4"]


class Page(html.parser.HTMLParser):
    """Parser that collects the tags with attributes, the texts and the table rows."""

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


def test_the_report_loads_no_file_and_runs_no_script(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    style = "".join(page.texts)
    assert "@import" not in style and "url(http" not in style
    policy = [
        attributes
        for tag, attributes in page.tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_the_report_escapes_captions(page):
    assert small_corpus.HOSTILE in page.texts
    # The script element in the caption of a dropped pair is removed.
    assert "a icon" in page.texts
    assert "someone@example.org" not in "".join(page.texts)
    image_sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(image_sources) > 20
    assert all(source.startswith("data:image/") for source in image_sources)


def test_the_report_has_the_numbers_of_the_funnel(page):
    rows = [row for row in page.rows if len(row) == 2]
    texts = [row[0].removeprefix("− ") for row in rows]
    start = texts.index("pairs found")
    numbers = [int(row[1].replace(",", "")) for row in rows[start : start + 20]]
    assert sorted(numbers) == sorted(FUNNEL.values())
    assert texts[start + 19] == "images in the shards"


walk = os.walk


def walk_backwards(*arguments, **options):
    """Lists files in another order, as another disk may do."""
    for folder, subfolders, names in walk(*arguments, **options):
        subfolders.reverse()
        names.reverse()
        yield folder, subfolders, names


def test_finished_tasks_are_not_repeated(built, sources, monkeypatch):
    out = built[0]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    monkeypatch.setattr("align_keras.runs.corpus_stages.run_tasks", _fail)
    monkeypatch.setattr("align_keras.runs.corpus_build.learn_vocabulary", _fail)
    # Without options, the command uses the sources of the last call.
    assert run("corpus", "build", f"--out={out}") == built[1]
    all_sources, options = sources
    monkeypatch.setattr(os, "walk", walk_backwards)
    assert run(*arguments("build", all_sources[::-1], out, *options)) == built[1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == times


def _fail(*arguments, **options):
    raise AssertionError("a finished task must not run again")


def test_temporary_files_are_removed(built):
    names = [path.name for path in built[0].rglob("*")]
    assert not [name for name in names if name.endswith(".tmp")]
    assert "tasks" not in names and "counts" not in names and "cut" not in names


def test_remote_images_are_listed(built, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "urls.parquet"
    output = run("corpus", "urls", f"--out={built[0]}", f"--to={path}")
    assert output == f"wrote the addresses of 3 remote images to {path}\n"
    rows = {row["url"]: row for row in parquet.read_table(path).to_pylist()}
    far_row = rows["https://example.org/far.jpg"]
    assert far_row["caption"] == "a picture on another machine"
    assert far_row["rule"] == "alt" and far_row["language"] == "en"
    assert far_row["page_url"].endswith("/pages/index.html")


def test_the_order_of_sources_and_files_does_not_change_the_corpus(
    built, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "walk", walk_backwards)
    all_sources, options = sources
    out = tmp_path / "other"
    assert run(*arguments("build", all_sources[::-1], out, *options)) == built[1]
    files = small_corpus.output_digests(out)
    assert files == small_corpus.output_digests(built[0])
    assert len(files) == 6

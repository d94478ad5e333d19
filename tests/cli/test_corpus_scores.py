"""`align-keras corpus score` and `select`, and training on the selected pairs."""

import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.corpus.scores import ScoreTable
from align_keras.corpus.shard_folder import read_shard, shard_counts
from tests.helpers.small_corpus import ONE_WORKER, run

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")
if not STAMPS.is_dir():
    pytest.skip("needs tuxpaint-stamps-default", allow_module_level=True)

HOOK = """
import io

from PIL import Image

def brightness(images, captions):
    assert len(images) == len(captions)
    scores = []
    for image in images:
        pixels = Image.open(io.BytesIO(image)).convert("L")
        histogram = pixels.histogram()
        total = sum(value * count for value, count in enumerate(histogram))
        scores.append(total / sum(histogram) / 255)
    return scores

def fails(images, captions):
    raise RuntimeError("no weights")

def short(images, captions):
    return [0.5]
"""


def write_stamps(folder, count=24):
    """Writes stamps with captions as a `folder` source, and a smaller copy of one."""
    folder.mkdir(parents=True)
    paths = sorted(STAMPS.rglob("*.png"))
    number = 0
    for path in paths:
        text = path.with_suffix(".txt")
        if not text.exists():
            continue
        with Image.open(path) as image:
            if min(image.size) <= 200 or image.width / image.height > 2.5:
                continue
            drawing = image.convert("RGBA")
        white = Image.new("RGBA", drawing.size, "white")
        white.alpha_composite(drawing)
        words = text.read_text(encoding="utf-8").splitlines()[0].strip()
        white.convert("RGB").save(folder / f"{number:02}.png")
        caption = f"a picture of {words}"
        if number % 3 == 0:
            caption += f"\nEine Zeichnung mit dem Namen {words}"
        (folder / f"{number:02}.txt").write_text(caption, encoding="utf-8")
        number += 1
        if number == count:
            break
    with Image.open(folder / "05.png") as image:
        smaller = image.resize((image.width * 9 // 10, image.height * 9 // 10))
        smaller.save(folder / "copy.jpg", quality=80)
    (folder / "copy.txt").write_text("a smaller copy of one", encoding="utf-8")
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def hooks(tmp_path_factory):
    """Makes the module `score_hooks_of_test` importable."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "score_hooks_of_test.py").write_text(HOOK, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def scored(tmp_path_factory, hooks):
    """Folder of a corpus that the command built and scored, and its output."""
    root = tmp_path_factory.mktemp("scored")
    overrides = [
        "shards.number_of_shards=2,shards.test_fraction=0.2",
        "score.hooks={brightness: score_hooks_of_test:brightness}",
    ]
    output = run(
        "corpus",
        "score",
        f"--out={root / 'out'}",
        f"--source={write_stamps(root / 'stamps')}",
        "--model=align_small_en",
        *(f"--params_override={override}" for override in overrides),
        *ONE_WORKER,
    )
    return root / "out", output


@pytest.fixture
def copied(scored, tmp_path):
    """Folder of a copy of the corpus, which a test may change."""
    return shutil.copytree(scored[0], tmp_path / "out")


def read_scores(out):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(out / "scores.parquet").to_pylist()


def stored_pairs(out):
    """Returns the id, the image and the captions of all images in stored order."""
    folder = out / "web_pairs/1.0.0"
    return [
        image
        for name, count in shard_counts(folder).items()
        for image in read_shard(folder / name, count)
    ]


def test_the_table_has_a_row_for_each_caption_in_stored_order(scored):
    out, output = scored
    rows = read_scores(out)
    expected = [
        (image.id, number, caption)
        for image in stored_pairs(out)
        for number, caption in enumerate(image.captions)
    ]
    keys = [(row["id"], row["caption_number"], row["caption"]) for row in rows]
    assert keys == expected and len(keys) > 25
    assert list(rows[0]) == [
        "shard",
        "id",
        "caption_number",
        "caption",
        "language",
        "detected_language",
        "similarity",
        "brightness",
        "draw",
    ]
    lines = output.splitlines()
    assert lines[0].split() == ["10%", "50%", "90%"]
    assert [line.split()[3] for line in lines[1:]] == [
        "similarity",
        "brightness",
    ]


def test_similarities_are_the_cosines_of_the_model(scored):
    from align_keras.embedders import load_model

    model = load_model("align_small_en")
    rows = read_scores(scored[0])
    images = {image.id: image.image for image in stored_pairs(scored[0])}
    image_rows = model.encode_images([images[row["id"]] for row in rows])
    text_rows = model.encode_texts([row["caption"] for row in rows])
    np.testing.assert_allclose(
        [row["similarity"] for row in rows],
        np.sum(image_rows * text_rows, axis=1),
        atol=1e-5,
    )


def test_languages_of_captions(scored):
    german = [row for row in read_scores(scored[0]) if "Zeichnung" in row["caption"]]
    assert len(german) == 8
    assert {row["detected_language"] for row in german} == {"de"}


def test_a_second_call_computes_nothing(scored, monkeypatch):
    out, output = scored
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    monkeypatch.setattr("align_keras.runs.corpus_stages.run_tasks", _fail)
    assert run("corpus", "score", f"--out={out}", *ONE_WORKER) == output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == times


def _fail(*arguments, **options):
    raise AssertionError("a finished task must not run again")


def test_another_column_does_not_embed_again(copied, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the pairs must not be embedded again")

    monkeypatch.setattr("align_keras.runs.corpus_scores.embed_shard_pairs", refuse)
    override = "--params_override=score.hooks=null"
    run("corpus", "score", f"--out={copied}", override, *ONE_WORKER)
    table = ScoreTable(copied / "scores.parquet")
    assert "brightness" not in table.columns


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("fails", "score.hooks.safety.*no weights"),
        ("short", "score.hooks.safety"),
        ("missing", "score.hooks.safety"),
    ],
)
def test_a_hook_that_fails_leaves_the_former_scores(copied, hook, message, capsys):
    before = (copied / "scores.parquet").read_bytes()
    override = f"score.hooks={{safety: score_hooks_of_test:{hook}}}"
    command = ["corpus", "score", f"--out={copied}", *ONE_WORKER]
    assert main([*command, f"--params_override={override}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("align-keras corpus: error: ")
    assert re.search(message, error)
    assert (copied / "scores.parquet").read_bytes() == before


def test_without_the_detector_there_is_no_detected_language(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    run("corpus", "score", f"--out={copied}", *ONE_WORKER)
    table = ScoreTable(copied / "scores.parquet")
    assert "detected_language" not in table.columns
    assert table.select("language = ''").kept_captions > 0


def test_the_embedding_does_not_load_tensorflow(copied):
    for folder in (copied / "stages").glob("score*"):
        shutil.rmtree(folder)
    script = """
import sys
from align_keras.cli.main import main
override = "--params_override=score.hooks=null"
words = ["corpus", "score", "--out", sys.argv[1], "--workers=1", override]
assert main(words) == 0
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    before = read_scores(copied)
    subprocess.run([sys.executable, "-c", script, str(copied)], check=True)
    for row, former_row in zip(read_scores(copied), before, strict=True):
        assert row == {name: former_row[name] for name in row}


def test_a_damaged_table_is_written_again(copied):
    before = read_scores(copied)
    (copied / "scores.parquet").write_bytes(b"damaged")
    run("corpus", "score", f"--out={copied}", *ONE_WORKER)
    assert read_scores(copied) == before


def test_select_prints_counts_and_examples(scored):
    out = scored[0]
    where = "similarity > 0.05 and detected_language = 'en'"
    output = run("corpus", "select", f"--out={out}", "--where", where, "--examples=2")
    rows = [
        row
        for row in read_scores(out)
        if row["similarity"] > 0.05 and row["detected_language"] == "en"
    ]
    images, captions, *examples = output.splitlines()
    total = len(read_scores(out))
    num_images = len({row["id"] for row in rows})
    assert images.split() == f"{num_images} of 25 images".split()
    assert captions.split() == f"{len(rows)} of {total} captions".split()
    assert [line for line in examples if not line.startswith(" ")] == [
        "kept:",
        "dropped:",
    ]
    first_example = min(rows, key=lambda row: row["draw"])
    assert examples[1].endswith(first_example["caption"])
    assert len(examples) == 6


def test_scores_of_rebuilt_shards_are_refused(copied, capsys):
    command = ["corpus", "shard", f"--out={copied}", *ONE_WORKER]
    assert main([*command, "--params_override=shards.number_of_shards=1"]) == 0
    capsys.readouterr()
    assert main(["corpus", "select", f"--out={copied}", "--where=draw < 1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "other shards" in error and "`align-keras corpus score`" in error

"""A corpus whose source vanishes meanwhile, and one that a model trains on."""

import json
import os
import pathlib
import re
import shlex
import shutil

import pytest

from align_keras.cli.main import main
from align_keras.runs import corpus_build
from tests.helpers import small_corpus
from tests.helpers.oracle_process import needs
from tests.helpers.small_corpus import ONE_WORKER, arguments, run
from tests.helpers.small_run import SMALL, write_pairs

pytestmark = needs("cv2")


@pytest.mark.ci
def test_a_source_that_vanishes_between_listing_and_reading(
    tmp_path, monkeypatch, capsys
):
    sources = small_corpus.write_sources(tmp_path)
    out, page = tmp_path / "out", tmp_path / "pages" / "index.html"
    run_tasks, ran = corpus_build.run_tasks, []

    def vanishing(function, tasks, folder, **options):
        ran.append(function.__name__)
        if ran == ["extract_part"]:
            os.rename(page, tmp_path / "elsewhere")
        return run_tasks(function, tasks, folder, **options)

    monkeypatch.setattr(corpus_build, "run_tasks", vanishing)
    command = arguments("extract", sources, out, *ONE_WORKER)
    assert main(command) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "1 of its files vanished or changed" in last and "index.html" in last
    tables = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}
    assert len(tables) == 2, "the folder's and the table's are kept"
    # The source as it is now: another one, read without the page.
    less = small_corpus.funnel_of(run(*command))["pairs found"]
    os.rename(tmp_path / "elsewhere", page)
    found = small_corpus.funnel_of(run(*command))["pairs found"]
    assert found == less + 23
    assert {path: path.stat().st_mtime_ns for path in tables} == tables


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a built corpus with a test split."""
    root = tmp_path_factory.mktemp("built")
    build = arguments(
        "build", small_corpus.write_sources(root), root / "out", *ONE_WORKER
    )
    run(*build, "--params_override=shards.test_fraction=0.3")
    return root / "out"


@pytest.mark.release
def test_a_model_trains_on_it(built, tmp_path, capsys):
    run_folder = tmp_path / "run"
    out = shutil.copytree(built, tmp_path / "out")
    overrides = [
        f"task.train_data.corpus={out / 'web_pairs/1.0.0'}",
        f"task.validation_data.corpus={out / 'web_pairs/1.0.0'}",
        f"task.model.text_encoder.vocabulary={out / 'vocabulary.txt'}",
        "task.model.text_encoder.vocabulary_size=300",
        "trainer.train_steps=1,trainer.steps_per_loop=1",
        "trainer.checkpoint_interval=1,trainer.validation_interval=1",
        "trainer.optimizer_config.warmup.type=null",
        # Of the small run the model alone.
        *[option for option in _small_model() if "vocabulary_size" not in option],
    ]
    command = ["train", f"--params_override={','.join(overrides)}", "--json"]
    code = main([*command, f"--model_dir={run_folder}"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["step"] == 1
    from align_keras.models import ALIGN

    words = (out / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert list(ALIGN.from_preset(run_folder).vocabulary) == words
    # One byte of a shard is another: which shard, TensorFlow doesn't say.
    [shard] = (out / "web_pairs/1.0.0").glob("*-train.*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main([*command, f"--model_dir={tmp_path / 'other'}"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"must match index.json, but {shard.name} is missing or differs" in message


@pytest.mark.ci
def test_the_guides_command_trains_on_it(built, tmp_path, capsys):
    """The command from corpus to pre-training, with a smaller model and fewer steps."""
    guide = pathlib.Path(__file__).parents[2] / "docs/pages/guides/corpus.md"
    text = guide.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^align-keras train .*corpus=DIR/web_pairs.*$", text, re.M)
    out = shutil.copytree(built, tmp_path / "out")
    pairs = write_pairs(tmp_path / "validation")
    for old, new in (
        ("saved_models/mine", tmp_path / "run"),
        ("DIR", out),
        ("COCO/karpathy_val.tsv", pairs),
    ):
        assert old in line
        line = line.replace(old, str(new))
    _, *command = shlex.split(line)
    small = _small_model()
    small += ["trainer.train_steps=1,trainer.steps_per_loop=1"]
    small += ["trainer.checkpoint_interval=1,trainer.validation_interval=1"]
    small += ["trainer.optimizer_config.warmup.type=null"]
    # A process holds one MirroredStrategy, which other tests may have made.
    small += ["runtime.distribution_strategy=one_device"]
    code = main([*command, f"--params_override={','.join(small)}", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["step"] == 1
    assert list((out / "web_pairs" / "1.0.0").glob("caption_counts.npz"))


def _small_model():
    return [option for option in SMALL.split(",") if "trainer." not in option]

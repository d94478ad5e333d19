"""Training on a corpus, and a source that changes while the corpus is built."""

import json
import os
import pathlib
import re
import shlex
import shutil

import pytest

from align_keras.cli.main import main, parse_arguments
from align_keras.config import load_config
from align_keras.runs import corpus_stages
from tests.helpers import small_corpus
from tests.helpers.oracle_process import needs
from tests.helpers.small_corpus import ONE_WORKER, arguments, run
from tests.helpers.small_run import SMALL

pytestmark = [pytest.mark.ci, needs("cv2")]


def test_a_source_that_changes_during_the_build_is_reported(
    tmp_path, monkeypatch, capsys
):
    sources = small_corpus.write_sources(tmp_path)
    out, page = tmp_path / "out", tmp_path / "pages" / "index.html"
    run_tasks, names_of_tasks = corpus_stages.run_tasks, []

    def run_and_move_page(function, tasks, folder, **options):
        names_of_tasks.append(function.__name__)
        if names_of_tasks == ["extract_part"]:
            os.rename(page, tmp_path / "elsewhere")
        return run_tasks(function, tasks, folder, **options)

    monkeypatch.setattr(corpus_stages, "run_tasks", run_and_move_page)
    command = arguments("extract", sources, out, *ONE_WORKER)
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of its files" in error and "index.html" in error
    tables = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}
    assert len(tables) == 2, "the tables of the two other sources are kept"
    # The next command reads the folder as a changed source, without the page.
    count_without_page = small_corpus.funnel_of(run(*command))["pairs found"]
    os.rename(tmp_path / "elsewhere", page)
    count_with_page = small_corpus.funnel_of(run(*command))["pairs found"]
    assert count_with_page == count_without_page + 23
    assert {path: path.stat().st_mtime_ns for path in tables} == tables


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a corpus with a test split."""
    root = tmp_path_factory.mktemp("built")
    build = arguments(
        "build", small_corpus.write_sources(root), root / "out", *ONE_WORKER
    )
    run(*build, "--params_override=shards.test_fraction=0.3")
    return root / "out"


@pytest.mark.release
def test_a_model_trains_on_the_corpus(built, tmp_path, capsys):
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
        # The model is that of the small run, with a larger vocabulary.
        *[
            option
            for option in _small_model_overrides()
            if "vocabulary_size" not in option
        ],
    ]
    command = ["train", f"--params_override={','.join(overrides)}", "--json"]
    code = main([*command, f"--model_dir={run_folder}"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads(captured.out)["step"] == 1
    from align_keras.models import ALIGN

    words = (out / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert list(ALIGN.from_preset(run_folder).vocabulary) == words
    # One byte of a shard is changed. TensorFlow does not name the damaged shard, so the
    # command compares the digests of all shards.
    [shard] = (out / "web_pairs/1.0.0").glob("*-train.*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main([*command, f"--model_dir={tmp_path / 'other'}"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "index.json" in message and shard.name in message


def test_the_guide_trains_with_a_valid_configuration():
    guide = pathlib.Path(__file__).parents[2] / "docs/pages/guides/corpus.md"
    text = guide.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^align-keras (train .*corpus=corpus/web_.*)$", text, re.M)
    words = parse_arguments(shlex.split(line))
    config = load_config(words.experiment, words.config_file, words.params_override)
    assert config.task.train_data.corpus.startswith("corpus/web_pairs")


def _small_model_overrides():
    return [option for option in SMALL.split(",") if "trainer." not in option]

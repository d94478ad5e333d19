"""Opt-outs of web pages in `align-keras corpus`: counts, and repeated stages."""

import pytest

from align_keras.config import load_corpus_config
from align_keras.runs import corpus_stages
from tests.helpers.small_corpus import ONE_WORKER, draw, funnel_of, run

pytest.importorskip("selectolax")
IGNORE = "--params_override=opt_out=ignore"
HONOR = "--params_override=opt_out=honor"


@pytest.fixture
def pages(tmp_path):
    """Folder with a page of one image, and a page of two pairs that opts out."""
    folder = tmp_path / "pages"
    folder.mkdir()
    draw(1).save(folder / "1.png")
    draw(2).save(folder / "2.png")
    (folder / "a.html").write_text("<img src=1.png alt='a cat on a mat'>")
    (folder / "b.html").write_text(
        "<meta name=robots content=noimageai>"
        "<img src=2.png alt='a dog on a log' title='the dog'>"
    )
    return folder


def extract(out, *options):
    """Runs the stage `extract`. Returns the numbers of its funnel."""
    return funnel_of(run("corpus", "extract", f"--out={out}", *ONE_WORKER, *options))


def test_opt_outs_are_counted_and_the_setting_repeats_the_stage(
    pages, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    honored = extract(out, f"--source=html:{pages}")
    assert honored == {"pairs found": 3, "opted out": 2}
    assert load_corpus_config([out / "corpus.yaml"]).opt_out == "honor"
    assert extract(out, IGNORE) == {"pairs found": 3}
    # The next command uses the saved setting.
    assert load_corpus_config([out / "corpus.yaml"]).opt_out == "ignore"
    assert extract(out) == {"pairs found": 3}
    monkeypatch.setattr(corpus_stages, "run_tasks", None)
    assert extract(out, HONOR) == honored, "both results are kept"


def test_sources_without_pages_do_not_depend_on_the_setting(
    pages, tmp_path, monkeypatch
):
    (pages / "pairs.csv").write_text("image,caption\n1.png,a cat on a mat\n")
    out = tmp_path / "out"
    numbers = extract(out, f"--source=table:{pages / 'pairs.csv'}")
    assert numbers == {"pairs found": 1}
    monkeypatch.setattr(corpus_stages, "run_tasks", None)
    assert extract(out, IGNORE) == numbers

"""Copies found by a model's embeddings, through the command."""

import pathlib
import random

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.runs import corpus
from tests.helpers import small_corpus
from tests.helpers.small import small_align
from tests.helpers.small_corpus import ONE_WORKER, arguments, funnel_of, run

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
pytest.importorskip("faiss")

COPIES = {"duplicate": 2, "near an evaluation image": 1, "near duplicate": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with sources, an evaluation set and a model."""
    folder = tmp_path_factory.mktemp("sources")
    small_corpus.write_sources(folder)
    small_corpus.write_evaluation(folder / "evaluation")
    # Keras draws its seeds from it, whatever ran before; of 0 to 3, 0's weights tell
    # pictures too little apart.
    random.seed(2)
    small_align().save_to_preset(folder / "model")
    return folder


def embedding(folder):
    """The options; copies have cosines above 0.999, other pictures below 0.96."""
    model = f"duplicates.mode=embedding,duplicates.encoder={folder / 'model'}"
    cosines = "duplicates.min_cosine=0.98,duplicates.min_cosine_against=0.98"
    return f"--params_override={model},{cosines}"


def command(folder, out):
    sources = [f"html:{folder / 'pages'}", f"folder:{folder / 'folder'}"]
    sources.append(f"table:{folder / 'table/pairs.csv'}")
    against = f"--against=folder:{folder / 'evaluation'}"
    return arguments("dedup", sources, out, *ONE_WORKER, against, embedding(folder))


def copies(said):
    return {what: count for what, count in funnel_of(said).items() if what in COPIES}


def dropped(out):
    [facts] = small_corpus.stage_facts(out, "dedup")
    return facts["dropped"]


def test_copies_leave_and_a_killed_run_embeds_no_picture_again(
    folder, tmp_path, monkeypatch
):
    model = load_model(folder / "model")
    encode_images = model.encode_images
    find, encoded = corpus.find_duplicates, []

    def counted(batch):
        encoded.append(len(batch))
        return encode_images(batch)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "encode_images", counted)
    monkeypatch.setattr(corpus, "worker_model", lambda name, runtime: model)
    monkeypatch.setattr(corpus, "find_duplicates", killed)
    main(command(folder, tmp_path))
    assert not small_corpus.stage_facts(tmp_path, "dedup") and sum(encoded) == 34
    monkeypatch.setattr(corpus, "find_duplicates", find)
    assert copies(run(*command(folder, tmp_path))) == COPIES
    assert sum(encoded) == 34
    names = {path.name for path in tmp_path.glob("stages/dedup-*/*")}
    assert names == {"done.json"}


def test_no_such_model_is_told_before_anything_is_read(folder, tmp_path, capsys):
    wrong = "--params_override=duplicates.encoder=no_such_folder"
    assert main([*command(folder, tmp_path), wrong]) == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 1
        and "duplicates.encoder must be align_small_en, the folder" in said[0]
    )
    assert not pathlib.Path(tmp_path, "stages").exists()


def test_embeddings_of_no_picture(folder, tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    source = f"table:{tmp_path / 'a.csv'}"
    own = arguments("dedup", [source], tmp_path / "out", *ONE_WORKER, embedding(folder))
    said = run(*own)
    assert funnel_of(said)["images, with all their captions"] == 0
    assert np.array(dropped(tmp_path / "out")).size == 0

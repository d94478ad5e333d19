"""`align-keras corpus dedup` with the embeddings of a model."""

import pathlib
import random

import numpy as np
import pytest

from align_keras import load_model
from align_keras.cli.main import main
from align_keras.runs import corpus_copies
from tests.helpers import small_corpus
from tests.helpers.small import small_align
from tests.helpers.small_corpus import ONE_WORKER, arguments, funnel_of, run

pytestmark = pytest.mark.ci

pytest.importorskip("cv2")
pytest.importorskip("faiss")

COPIES = {"duplicate": 2, "near an evaluation image": 1, "near duplicate": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with sources, an evaluation set and a model."""
    folder = tmp_path_factory.mktemp("sources")
    small_corpus.write_sources(folder)
    small_corpus.write_evaluation(folder / "evaluation")
    # Keras draws the seeds of the weights from this generator. With the seed 0, the
    # embeddings of different images are too similar.
    random.seed(2)
    small_align().save_to_preset(folder / "model")
    return folder


def embedding_override(folder):
    """Returns the option that finds copies by embeddings.

    Copies have cosines above 0.999 with this model, different images below 0.96.
    """
    model = f"duplicates.mode=embedding,duplicates.encoder={folder / 'model'}"
    cosines = "duplicates.min_cosine=0.98,duplicates.min_cosine_against=0.98"
    return f"--params_override={model},{cosines}"


def command(folder, out):
    """Returns the words of a command that removes duplicates."""
    sources = [f"html:{folder / 'pages'}", f"folder:{folder / 'folder'}"]
    sources.append(f"table:{folder / 'table/pairs.csv'}")
    against = f"--against=folder:{folder / 'evaluation'}"
    return arguments(
        "dedup", sources, out, *ONE_WORKER, against, embedding_override(folder)
    )


def count_copies(output):
    """Returns the lines of the printed funnel that count copies."""
    return {
        reason: count for reason, count in funnel_of(output).items() if reason in COPIES
    }


def read_dropped_images(out):
    """Returns the images that the stage dedup has dropped."""
    [facts] = small_corpus.stage_facts(out, "dedup")
    return facts["dropped"]


def test_an_interrupted_command_embeds_no_image_again(folder, tmp_path, monkeypatch):
    model = load_model(folder / "model")
    encode_images = model.encode_images
    find_duplicates, batch_sizes = corpus_copies.find_duplicates, []

    def encode_and_count(batch):
        batch_sizes.append(len(batch))
        return encode_images(batch)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "encode_images", encode_and_count)
    monkeypatch.setattr(corpus_copies, "worker_model", lambda name, runtime: model)
    monkeypatch.setattr(corpus_copies, "find_duplicates", interrupt)
    main(command(folder, tmp_path))
    assert not small_corpus.stage_facts(tmp_path, "dedup") and sum(batch_sizes) == 34
    monkeypatch.setattr(corpus_copies, "find_duplicates", find_duplicates)
    assert count_copies(run(*command(folder, tmp_path))) == COPIES
    assert sum(batch_sizes) == 34
    names = {path.name for path in tmp_path.glob("stages/dedup-*/*")}
    assert names == {"done.json"}


def test_a_missing_model_is_reported_before_sources_are_read(folder, tmp_path, capsys):
    wrong_model = "--params_override=duplicates.encoder=no_such_folder"
    assert main([*command(folder, tmp_path), wrong_model]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "no_such_folder" in lines[0]
    assert not pathlib.Path(tmp_path, "stages").exists()


def test_a_corpus_without_images_has_no_copies(folder, tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\nnone.png,a cat on a mat\n")
    source = f"table:{tmp_path / 'a.csv'}"
    words = arguments(
        "dedup", [source], tmp_path / "out", *ONE_WORKER, embedding_override(folder)
    )
    output = run(*words)
    assert funnel_of(output)["images, with all their captions"] == 0
    assert np.array(read_dropped_images(tmp_path / "out")).size == 0

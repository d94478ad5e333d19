"""What earlier versions wrote, opened by today's code: the answers are theirs.

`tools/make_artifacts.py` writes a version's folder, once.
"""

import hashlib
import json
import pathlib
import tarfile

import numpy as np
import pytest

from align_keras.cli.main import main

VERSIONS = sorted(pathlib.Path(__file__).parent.glob("artifacts/*"))
# Float32 kernels of another processor sum in another order: 1e-7 relative an operation,
# some hundred operations deep. Of equal kernels the answers are rounded to 1e-7.
TOLERANCE = 2e-5


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def artifact(request, tmp_path, monkeypatch):
    """A function that unpacks a kind into the working directory, a temporary one."""
    monkeypatch.chdir(tmp_path)

    def unpack(kind):
        with tarfile.open(request.param / f"{kind}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / kind

    text = (request.param / "expected.json").read_text(encoding="utf-8")
    unpack.expected = json.loads(text)
    return unpack


def contents(artifact):
    """The bytes of all images, in the order of the table."""
    folder = artifact("pairs")
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    return [(folder / json.loads(row)["image"]).read_bytes() for row in rows]


def check_answers(model, artifact, kind="model"):
    expected = artifact.expected[kind]
    images = model.encode_images(contents(artifact)[:8])
    texts = model.encode_texts(artifact.expected["queries"])
    np.testing.assert_allclose(images, expected["images"], atol=TOLERANCE)
    np.testing.assert_allclose(texts, expected["texts"], atol=TOLERANCE)
    # No two are alike, so that order and content show.
    assert np.ptp(expected["images"], axis=0).max() > 0.1


def test_there_are_some():
    assert "0.1" in [folder.name for folder in VERSIONS]


def test_preset(artifact):
    from align_keras import ALIGN

    check_answers(ALIGN.from_preset(artifact("preset")), artifact)


def test_keras_file(artifact):
    import keras

    import align_keras  # noqa: F401 (registers the classes)

    model = keras.models.load_model(artifact("keras") / "align.keras")
    check_answers(model, artifact)
    assert type(model.optimizer).__name__ == "Lamb"


def test_hugging_face_folder(artifact):
    from align_keras import ALIGN

    model = ALIGN.from_preset(artifact("hugging_face"))
    check_answers(model, artifact, "hugging_face")


@pytest.mark.ci
def test_export(artifact):
    from align_keras import load_model

    check_answers(load_model(artifact("export")), artifact)


def test_index(artifact):
    from align_keras.search import Index

    folder = artifact("index")
    if (folder / "embeddings.npy").exists():
        index = from_flat_index(folder)
    else:
        index = Index.open(folder)
    for row, query in enumerate(artifact.expected["model"]["texts"]):
        hits = index.query(np.array(query), 5)
        assert [hit.path for hit in hits] == artifact.expected["hits"][row]
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, artifact.expected["scores"][row], atol=1e-6)
    (image,) = [hit for hit in index.latest(k=99) if hit.id == 8]
    stored = pathlib.Path(image.stored_image)
    assert stored.read_bytes() == contents(artifact)[7]


def from_flat_index(folder):
    """Makes today's index of the plain files of the format that runs wrote in 0.1."""
    from align_keras.search import Index
    from align_keras.utils.errors import InputError

    with pytest.raises(InputError, match="Build it again by `align-keras train .*`"):
        Index.open(folder)
    lines = (folder / "entries.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return Index.from_embeddings(
        np.load(folder / "embeddings.npy"),
        [entry["id"] for entry in entries],
        [entry["captions"] for entry in entries],
        images=[(folder / entry["thumbnail"]).read_bytes() for entry in entries],
    )


def test_embedding_cache(artifact):
    from align_keras.protocols.embedding_cache import EmbeddingCache

    def encode(items):
        raise AssertionError(f"{len(items)} embeddings were thrown away")

    found = EmbeddingCache(artifact("cache"), encode)(contents(artifact)[:8])
    expected = artifact.expected["model"]["images"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_corpus(artifact):
    """Its shards are whole by `index.json`, and say by TFDS what they said."""
    import tensorflow_datasets as tfds

    folder = artifact("corpus") / "web_pairs" / "1.0.0"
    shards = json.loads((folder / "index.json").read_text())["shards"]
    assert shards
    for shard in shards:
        content = (folder / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    builder = tfds.builder_from_directory(folder)
    skip = {"image": tfds.decode.SkipDecoding()}
    for split, expected in artifact.expected["corpus"].items():
        rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
        found = sorted(
            [
                bytes(row["id"]).decode(),
                [bytes(own).decode() for own in row["captions"]],
                [int(row["width"]), int(row["height"])],
                hashlib.sha256(row["image"]).hexdigest(),
            ]
            for row in rows
        )
        assert found == expected


def test_corpus_is_read_for_training(artifact):
    from align_keras.data import read_retrieval_set
    from align_keras.datasets import open_corpus

    builder = open_corpus(str(artifact("corpus") / "web_pairs" / "1.0.0"))
    found = read_retrieval_set(builder, "test")
    expected = [row[1] for row in artifact.expected["corpus"]["test"]]
    assert sorted(map(list, found.captions)) == sorted(expected)


@pytest.mark.ci
def test_a_run_goes_on_to_the_same_numbers(artifact, capsys):
    """A run that was stopped ends where the one that wasn't did."""
    artifact("pairs")
    run = artifact("run")
    arguments = ["train", f"--model_dir={run}"]
    # The experiment of that name trains by another optimizer since.
    overrides = f"--params_override={artifact.expected['overrides']}"
    assert main([*arguments, "--experiment=quickstart_stamps", overrides]) == 1
    refused = capsys.readouterr().err
    assert "optimizer.type was 'adamw' and is now 'muon'" in refused
    assert "--config_file" in refused
    assert main([*arguments, f"--config_file={run}/params.yaml"]) == 0
    assert "resuming at step 120 of 140" in capsys.readouterr().err
    lines = [json.loads(line) for line in open(run / "metrics.jsonl", encoding="utf-8")]
    later = [line for line in lines if line["step"] > 120]
    (losses, recalls), (own_losses, own_recalls) = artifact.expected["resumed"], later
    # Twenty steps of LAMB carry rounding on; moments of zero were off by 3e-3.
    for name in ("loss", "loss_i2t", "loss_t2i", "temperature"):
        # 0.1 decoded JPEGs by up to five gray levels otherwise: 2.5e-3 was seen.
        assert own_losses[name] == pytest.approx(losses[name], rel=1e-2)
    # One query of 34 may change its rank.
    for name in ("i2t/recall_at_10", "t2i/recall_at_10"):
        assert own_recalls[name] == pytest.approx(recalls[name], abs=1.01 / 34)


@pytest.mark.ci
def test_a_preset_is_evaluated(artifact, capsys):
    artifact("pairs"), artifact("preset")
    retrieval = ["retrieval", "--data=pairs/pairs.jsonl", "--cache=embeddings"]
    assert main(["evaluate", *retrieval, "--model=preset", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    # 0.1 called images pictures.
    expected = {
        name.replace("pictures", "images"): value
        for name, value in artifact.expected["evaluated"]["metrics"].items()
    }
    # 0.1 didn't count them.
    candidates = [found.pop(f"{way}/candidates") for way in ("i2t", "t2i")]
    assert candidates == [40, 40]
    # One query of 40 may change its rank by rounding.
    assert found == pytest.approx(expected, abs=1.01 / 40)

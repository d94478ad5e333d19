"""The current code opens files of earlier versions and gives the same results.

`tools/make_artifacts.py` writes the folder of each version once.
"""

import hashlib
import json
import pathlib
import tarfile

import numpy as np
import pytest

from align_keras.cli.main import main

VERSIONS = sorted(pathlib.Path(__file__).parent.glob("artifacts/*"))
# Float32 kernels of other processors sum in another order. The relative error is about
# 1e-7 per operation, and some hundred operations follow each other. The recorded
# results are rounded to 1e-7.
TOLERANCE = 2e-5


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def artifact(request, tmp_path, monkeypatch):
    """A function that unpacks a kind of artifact to a temporary working directory."""
    monkeypatch.chdir(tmp_path)

    def unpack(kind):
        with tarfile.open(request.param / f"{kind}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / kind

    text = (request.param / "expected.json").read_text(encoding="utf-8")
    unpack.expected = json.loads(text)
    return unpack


def contents(artifact):
    """Returns the bytes of all images in the order of `pairs.jsonl`."""
    folder = artifact("pairs")
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    return [(folder / json.loads(row)["image"]).read_bytes() for row in rows]


def check_embeddings(model, artifact, kind="model"):
    """Compares the embeddings of a model with the recorded ones."""
    expected = artifact.expected[kind]
    images = model.encode_images(contents(artifact)[:8])
    texts = model.encode_texts(artifact.expected["queries"])
    np.testing.assert_allclose(images, expected["images"], atol=TOLERANCE)
    np.testing.assert_allclose(texts, expected["texts"], atol=TOLERANCE)
    # The embeddings must differ, or the comparison would not detect a wrong order.
    assert np.ptp(expected["images"], axis=0).max() > 0.1


def test_artifacts_of_the_first_version_exist():
    assert "0.1" in [folder.name for folder in VERSIONS]


def test_a_preset_opens(artifact):
    from align_keras import ALIGN

    check_embeddings(ALIGN.from_preset(artifact("preset")), artifact)


def test_a_keras_file_opens(artifact):
    import keras

    import align_keras  # noqa: F401 (registers the classes)

    model = keras.models.load_model(artifact("keras") / "align.keras")
    check_embeddings(model, artifact)
    assert type(model.optimizer).__name__ == "Lamb"


def test_a_hugging_face_folder_opens(artifact):
    from align_keras import ALIGN

    model = ALIGN.from_preset(artifact("hugging_face"))
    check_embeddings(model, artifact, "hugging_face")


@pytest.mark.ci
def test_an_export_opens(artifact):
    from align_keras import load_model

    check_embeddings(load_model(artifact("export")), artifact)


def test_an_index_returns_the_same_hits(artifact):
    from align_keras.search import Index

    folder = artifact("index")
    if (folder / "embeddings.npy").exists():
        index = convert_flat_index(folder)
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


def convert_flat_index(folder):
    """Converts the plain files of an index of version 0.1 to the current format."""
    from align_keras.search import Index
    from align_keras.utils.errors import InputError

    with pytest.raises(InputError, match="Build it again with `align-keras train .*`"):
        Index.open(folder)
    lines = (folder / "entries.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return Index.from_embeddings(
        np.load(folder / "embeddings.npy"),
        [entry["id"] for entry in entries],
        [entry["captions"] for entry in entries],
        images=[(folder / entry["thumbnail"]).read_bytes() for entry in entries],
    )


def test_cached_embeddings_are_used(artifact):
    from align_keras.protocols.embedding_cache import EmbeddingCache

    def encode(items):
        raise AssertionError(f"{len(items)} cached embeddings were not used")

    embeddings = EmbeddingCache(artifact("cache"), encode)(contents(artifact)[:8])
    expected = artifact.expected["model"]["images"]
    np.testing.assert_allclose(embeddings, expected, atol=TOLERANCE)


def test_a_corpus_is_complete_and_readable(artifact):
    """The shards have the digests of `index.json`, and TFDS reads the same rows."""
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
        actual = sorted(
            [
                bytes(row["id"]).decode(),
                [bytes(caption).decode() for caption in row["captions"]],
                [int(row["width"]), int(row["height"])],
                hashlib.sha256(row["image"]).hexdigest(),
            ]
            for row in rows
        )
        assert actual == expected


def test_a_corpus_is_read_for_training(artifact):
    from align_keras.data import read_retrieval_set
    from align_keras.datasets import open_corpus

    builder = open_corpus(str(artifact("corpus") / "web_pairs" / "1.0.0"))
    retrieval_set = read_retrieval_set(builder, "test")
    expected = [row[1] for row in artifact.expected["corpus"]["test"]]
    assert sorted(map(list, retrieval_set.captions)) == sorted(expected)


@pytest.mark.ci
def test_a_resumed_run_reaches_the_same_metrics(artifact, capsys):
    """A resumed run ends with the metrics of a run without interruption."""
    artifact("pairs")
    run = artifact("run")
    arguments = ["train", f"--model_dir={run}"]
    # The experiment now has another optimizer.
    overrides = f"--params_override={artifact.expected['overrides']}"
    assert main([*arguments, "--experiment=quickstart_stamps", overrides]) == 1
    error = capsys.readouterr().err
    assert "optimizer.type was 'adamw' and is now 'muon'" in error
    assert "--config_file" in error
    assert main([*arguments, f"--config_file={run}/params.yaml"]) == 0
    assert "resuming at step 120 of 140" in capsys.readouterr().err
    lines = [json.loads(line) for line in open(run / "metrics.jsonl", encoding="utf-8")]
    later = [line for line in lines if line["step"] > 120]
    expected_losses, expected_recalls = artifact.expected["resumed"]
    losses, recalls = later
    # Rounding errors grow over twenty steps. A resumed run without the optimizer's
    # moments differs by 3e-3.
    for name in ("loss", "loss_i2t", "loss_t2i", "temperature"):
        # Version 0.1 decoded JPEGs with differences of up to five gray levels, which
        # change the loss by 2.5e-3.
        assert losses[name] == pytest.approx(expected_losses[name], rel=1e-2)
    # The rank of one of 34 queries may change.
    for name in ("i2t/recall_at_10", "t2i/recall_at_10"):
        assert recalls[name] == pytest.approx(expected_recalls[name], abs=1.01 / 34)


@pytest.mark.ci
def test_a_preset_is_evaluated(artifact, capsys):
    artifact("pairs"), artifact("preset")
    retrieval = ["retrieval", "--data=pairs/pairs.jsonl", "--cache=embeddings"]
    assert main(["evaluate", *retrieval, "--model=preset", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    # Version 0.1 used the word "pictures" in metric names.
    expected = {
        name.replace("pictures", "images"): value
        for name, value in artifact.expected["evaluated"]["metrics"].items()
    }
    # Version 0.1 did not report the number of candidates.
    candidates = [
        metrics.pop(f"{direction}/candidates") for direction in ("i2t", "t2i")
    ]
    assert candidates == [40, 40]
    # Rounding may change the rank of one of 40 queries.
    assert metrics == pytest.approx(expected, abs=1.01 / 40)

"""Report of a fine-tuning: intervals, changed captions and the page."""

import types

import numpy as np
import pytest

from align_keras.evaluation import retrieval_ranks, unshared_positives
from align_keras.reports.examples import changed_queries
from align_keras.reports.finetune_report import (
    CurvePoint,
    recall_changes,
    write_finetune_report,
)


def result_of(images, texts):
    """Returns the fields of `RetrievalResult` that a report reads."""
    positives = unshared_positives(len(images), np.arange(len(texts)))
    return types.SimpleNamespace(
        image_embeddings=images,
        text_embeddings=texts,
        caption_image_index=np.arange(len(texts)),
        positives=positives,
        ranks=retrieval_ranks(images, texts, positives),
    )


def rotated(order):
    return np.eye(6, dtype="float32")[order]


IMAGES = [np.full((8, 8, 3), 40 * row, np.uint8) for row in range(6)]
CAPTIONS = [f"caption {row}" for row in range(6)]
# The captions 0 and 1 are exchanged before the training, and 2 and 3 after it.
BEFORE = result_of(np.eye(6, dtype="float32"), rotated([1, 0, 2, 3, 4, 5]))
AFTER = result_of(np.eye(6, dtype="float32"), rotated([0, 1, 3, 2, 4, 5]))


def test_intervals_are_those_of_a_direct_bootstrap():
    random = np.random.default_rng(3)
    before, after = (random.integers(0, 30, 200) for _ in range(2))
    changes = recall_changes(
        {"t2i": before, "i2t": after}, {"t2i": after, "i2t": after}
    )
    difference = (after < 10).astype(float) - (before < 10)
    draws = np.random.default_rng(8).integers(0, 200, (4000, 200))
    low, high = np.percentile(difference[draws].mean(axis=1), (2.5, 97.5))
    t2i, i2t = (change for change in changes if change.k == 10)
    assert t2i.before[0] == pytest.approx((before < 10).mean())
    assert t2i.after[0] == pytest.approx((after < 10).mean())
    assert t2i.change[0] == pytest.approx(difference.mean())
    # Two bootstraps with different draws differ by less than a point.
    assert t2i.change[1:] == pytest.approx((low, high), abs=0.015)
    assert t2i.queries == 200
    assert i2t.change == (0.0, 0.0, 0.0)


def test_changed_captions_are_found_with_their_ranks():
    improved, worse = changed_queries(BEFORE, AFTER, IMAGES, CAPTIONS)
    assert {query.caption for _, query in improved} == {"caption 0", "caption 1"}
    assert {query.caption for _, query in worse} == {"caption 2", "caption 3"}
    for first, second in improved:
        assert first.rank > second.rank == 1
        assert first.caption == second.caption
    for first, second in worse:
        assert second.rank > first.rank == 1


def test_repeated_captions_are_compared_once():
    captions = ["same", "same", *CAPTIONS[2:]]
    improved, _ = changed_queries(BEFORE, AFTER, IMAGES, captions)
    assert [query.caption for _, query in improved] == ["same"]


@pytest.mark.parametrize("has_old_task", [True, False])
def test_the_page_has_all_parts(tmp_path, has_old_task):
    improved, worse = changed_queries(BEFORE, AFTER, IMAGES, CAPTIONS)
    changes = {"Your test pairs": recall_changes(BEFORE.ranks, AFTER.ranks)}
    if has_old_task:
        changes["Old task (stamps)"] = recall_changes(BEFORE.ranks, BEFORE.ranks)
    old_recalls = (0.5, 0.4) if has_old_task else (None, None)
    curve = [CurvePoint(0.0, 0.2, old_recalls[0]), CurvePoint(1.0, 0.6, old_recalls[1])]
    path = tmp_path / "report.html"
    write_finetune_report(
        path,
        command="align-keras finetune --pairs <p>.csv",
        parameters={"finetune": {"blocks": 2}},
        sizes={"training": (70, 140), "validation": (15, 30), "test": (6, 6)},
        changes=changes,
        old_task="stamps" if has_old_task else None,
        curve=curve,
        factor=1.0,
        history={"1_projections": [{"step": 0, "mean_recall": 0.2}]},
        improved=improved,
        worse=worse,
        findings=[{"step": 3, "problem": "A problem.", "remedy": "A remedy."}],
        data_notes={},
        next_steps=["align-keras search --model_dir run cat"],
    )
    page = path.read_text(encoding="utf-8")
    assert "align-keras finetune --pairs &lt;p&gt;.csv" in page
    for text in (
        "66.7",
        "Captions that improved most",
        "A remedy.",
        "caption 3",
        "Recall by the factor of the interpolation",
        "finetune.blocks",
    ):
        assert text in page
    assert ("old task was not" in page) == (not has_old_task)
    assert page.count("<svg") >= 2 and page.count("data:image") >= 8
    assert "http://" not in page.replace("http://www.w3.org", "")

"""Metadata at the top of model cards."""

import huggingface_hub
import pytest

from align_keras.export.card_metadata import (
    card_with_metadata,
    evaluation_results,
    license_of,
)

CARD = "# Model\n\nText with --- in it.\n"


def report_of(**metrics):
    return {"protocol": "retrieval", "data": "stamps", "metrics": metrics}


def test_a_card_gets_the_defaults():
    card = huggingface_hub.ModelCard(card_with_metadata(CARD, "user/model"))
    assert card.data.to_dict() == {
        "license": "unknown",
        "language": ["en"],
        "library_name": "align-keras",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["align", "keras", "image-text-retrieval"],
    }
    assert card.text.strip() == CARD.strip()


def test_chosen_values_precede_those_of_the_card_and_of_the_previous_card():
    previous = huggingface_hub.ModelCardData(
        license="mit", language="fr", datasets=["old"], pipeline_tag="other"
    )
    card = f"---\nlanguage: de\ntags: [mine]\nbase_model: a/b\n---\n\n{CARD}"
    text = card_with_metadata(
        card, "user/model", previous=previous, datasets=["new"], license=None
    )
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.language, data.datasets) == ("mit", "de", ["new"])
    assert (data.tags, data.base_model) == (["mine"], "a/b")
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert text.count("language:") == 1 and text.endswith(CARD)
    assert license_of(text) == "mit" and license_of(CARD) is None


def test_new_results_replace_those_of_the_card():
    first = card_with_metadata(CARD, "a/b", reports=[report_of(**{"t2i/mrr": 0.1})])
    assert huggingface_hub.ModelCard(first).data.eval_results[0].metric_value == 0.1
    same = card_with_metadata(first, "a/b")
    assert huggingface_hub.ModelCard(same).data.eval_results[0].metric_value == 0.1
    second = card_with_metadata(first, "a/b", reports=[report_of(**{"t2i/mrr": 0.2})])
    (result,) = huggingface_hub.ModelCard(second).data.eval_results
    assert result.metric_value == 0.2


def test_results_have_scores_only():
    metrics = {
        "i2t/recall_at_1": 0.123456789,
        "i2t/chance_recall_at_1": 0.01,
        "i2t/queries": 8.0,
        "i2t/queries_without_positives": 0.0,
        "i2t/candidates": 8.0,
        "images": 8.0,
        "images_left_out": 1.0,
        "t2i/recall_at_1": None,
        "t2i/recall_at_5": float("nan"),
    }
    (result,) = evaluation_results([report_of(**metrics)])
    assert (result.metric_name, result.metric_type) == (
        "i2t/recall_at_1",
        "recall_at_1",
    )
    assert result.metric_value == 0.123457


def test_metadata_must_be_a_mapping():
    with pytest.raises(ValueError):
        card_with_metadata("---\n- license\n---\n# Model\n", "a/b")

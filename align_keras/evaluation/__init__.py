"""Metrics in pure NumPy; protocols take encode functions; the report.

`align_keras.evaluation.report.write_report` and
`align_keras.evaluation.contact_sheet.contact_sheet` are imported by their
modules, so that the metrics need NumPy alone.
"""

from align_keras.evaluation.chance import chance_recall_at_k
from align_keras.evaluation.recall_at_k import (
    count_without_positives,
    rank_of_best_positive,
    recall_at_k,
)
from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    evaluate_retrieval,
    retrieval_metrics,
    shared_positives,
)

__all__ = [
    "RetrievalPositives",
    "chance_recall_at_k",
    "count_without_positives",
    "evaluate_retrieval",
    "rank_of_best_positive",
    "recall_at_k",
    "retrieval_metrics",
    "shared_positives",
]

"""Metrics in pure NumPy; protocols take encode functions; the report.

`align_keras.reports.report.write_report` and
`align_keras.reports.contact_sheet.contact_sheet` are imported by their
modules, so that the metrics need NumPy alone.
"""

from align_keras.evaluation.chance import chance_recall_at_k
from align_keras.evaluation.classification import (
    Classification,
    classification_metrics,
    classification_statistics,
    mean_per_class,
)
from align_keras.evaluation.composed import (
    composed_metrics,
    composed_statistics,
    evaluate_composed_retrieval,
    rank_composed_queries,
)
from align_keras.evaluation.cxc import (
    cxc_ranks,
    cxc_retrieval_metrics,
    evaluate_cxc_retrieval,
)
from align_keras.evaluation.cxc_similarity import (
    cxc_similarity_metrics,
    cxc_similarity_statistics,
    evaluate_cxc_similarity,
)
from align_keras.evaluation.fine_tuned import (
    evaluate_fine_tuned,
    fine_tuned_metrics,
    fine_tuned_statistics,
)
from align_keras.evaluation.linear_probe import evaluate_linear_probe, probe
from align_keras.evaluation.logistic_regression import fit_logistic_regression
from align_keras.evaluation.multi30k import (
    LanguageRanks,
    evaluate_multi30k,
    mean_recall,
    multilingual_metrics,
    multilingual_outcomes,
    multilingual_ranks,
)
from align_keras.evaluation.nearest_neighbors import (
    evaluate_knn,
    knn_statistics,
    nearest_neighbors,
    neighbor_ranks,
)
from align_keras.evaluation.positives import (
    RetrievalPositives,
    flatten_captions,
    own_positives,
    shared_positives,
)
from align_keras.evaluation.recall_at_k import (
    count_without_positives,
    rank_of_best_positive,
    recall_at_k,
    recall_of_ranks,
)
from align_keras.evaluation.retrieval import (
    evaluate_retrieval,
    metrics_of_retrieval_ranks,
    retrieval_metrics,
    retrieval_ranks,
)
from align_keras.evaluation.simlex import (
    evaluate_simlex,
    simlex_metrics,
    simlex_statistics,
    word_cosines,
)
from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    recall_statistics,
    sliced_metrics,
    whole_metrics,
)
from align_keras.evaluation.spearman import spearman
from align_keras.evaluation.vtab import (
    VtabTrial,
    accuracies_of,
    evaluate_vtab,
    vtab_metrics,
    vtab_ranks,
    vtab_statistics,
)
from align_keras.evaluation.zero_shot import (
    class_embeddings,
    evaluate_zero_shot,
    zero_shot_classification,
)

__all__ = [
    "Classification",
    "LanguageRanks",
    "RetrievalPositives",
    "Statistic",
    "VtabTrial",
    "accuracies_of",
    "chance_recall_at_k",
    "class_embeddings",
    "classification_metrics",
    "classification_statistics",
    "composed_metrics",
    "composed_statistics",
    "count_without_positives",
    "cxc_ranks",
    "cxc_retrieval_metrics",
    "cxc_similarity_metrics",
    "cxc_similarity_statistics",
    "evaluate_composed_retrieval",
    "evaluate_cxc_retrieval",
    "evaluate_cxc_similarity",
    "evaluate_fine_tuned",
    "evaluate_knn",
    "evaluate_linear_probe",
    "evaluate_multi30k",
    "evaluate_retrieval",
    "evaluate_simlex",
    "evaluate_vtab",
    "evaluate_zero_shot",
    "fine_tuned_metrics",
    "fine_tuned_statistics",
    "fit_logistic_regression",
    "flatten_captions",
    "item_outcomes",
    "knn_statistics",
    "mean_per_class",
    "mean_recall",
    "mean_statistics",
    "metrics_of_retrieval_ranks",
    "multilingual_metrics",
    "multilingual_outcomes",
    "multilingual_ranks",
    "nearest_neighbors",
    "neighbor_ranks",
    "own_positives",
    "probe",
    "rank_composed_queries",
    "rank_of_best_positive",
    "recall_at_k",
    "recall_of_ranks",
    "recall_statistics",
    "retrieval_metrics",
    "retrieval_ranks",
    "shared_positives",
    "simlex_metrics",
    "simlex_statistics",
    "sliced_metrics",
    "spearman",
    "vtab_metrics",
    "vtab_ranks",
    "vtab_statistics",
    "whole_metrics",
    "word_cosines",
    "zero_shot_classification",
]

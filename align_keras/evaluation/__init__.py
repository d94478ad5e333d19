"""Metrics in NumPy: embeddings, ranks and ratings in, numbers out."""

from align_keras.evaluation.classification import (
    Classification,
    class_embeddings,
    classification_metrics,
    classification_statistics,
    fine_tuned_metrics,
    fine_tuned_statistics,
    mean_per_class,
    vtab_metrics,
    vtab_statistics,
    zero_shot_classification,
)
from align_keras.evaluation.composed import (
    composed_metrics,
    composed_statistics,
    rank_composed_queries,
)
from align_keras.evaluation.linear_probe import (
    fit_logistic_regression,
    probe,
)
from align_keras.evaluation.multi30k import (
    LanguageRanks,
    mean_recall,
    multilingual_metrics,
    multilingual_outcomes,
    multilingual_ranks,
)
from align_keras.evaluation.nearest_neighbors import (
    nearest_neighbors,
    neighbor_ranks,
)
from align_keras.evaluation.rank_correlation import (
    cxc_similarity_metrics,
    cxc_similarity_statistics,
    simlex_metrics,
    simlex_statistics,
    spearman,
    word_cosines,
)
from align_keras.evaluation.recall_at_k import (
    chance_recall_at_k,
    count_without_positives,
    rank_of_best_positive,
    recall_at_k,
    recall_of_ranks,
)
from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    cxc_ranks,
    cxc_retrieval_metrics,
    flatten_captions,
    metrics_of_retrieval_ranks,
    own_positives,
    retrieval_metrics,
    retrieval_ranks,
    shared_positives,
)
from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    recall_statistics,
    sliced_metrics,
    whole_metrics,
)

__all__ = [
    "Classification",
    "LanguageRanks",
    "RetrievalPositives",
    "Statistic",
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
    "fine_tuned_metrics",
    "fine_tuned_statistics",
    "fit_logistic_regression",
    "flatten_captions",
    "item_outcomes",
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
    "vtab_statistics",
    "whole_metrics",
    "word_cosines",
    "zero_shot_classification",
]

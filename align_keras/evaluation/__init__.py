"""Evaluation metrics in NumPy from embeddings, ranks and ratings."""

from align_keras.evaluation.caption_choice import (
    caption_choice_outcomes,
    winoground_outcomes,
)
from align_keras.evaluation.class_metrics import (
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
from align_keras.evaluation.composed_metrics import (
    composed_metrics,
    composed_statistics,
    rank_composed_queries,
)
from align_keras.evaluation.linear_probe import fit_logistic_regression, probe
from align_keras.evaluation.nearest_neighbors import nearest_neighbors, neighbor_ranks
from align_keras.evaluation.rank_correlation import (
    cxc_similarity_metrics,
    cxc_similarity_statistics,
    simlex_metrics,
    simlex_statistics,
    spearman,
    word_cosines,
)
from align_keras.evaluation.recall_at_k import (
    PAPER_KS,
    chance_recall_at_k,
    count_without_positives,
    rank_of_best_positive,
    recall_at_k,
    recall_of_ranks,
)
from align_keras.evaluation.retrieval import (
    LanguageRanks,
    RetrievalPositives,
    flatten_captions,
    mean_recall,
    metrics_of_retrieval_ranks,
    multilingual_metrics,
    multilingual_outcomes,
    multilingual_ranks,
    retrieval_metrics,
    retrieval_ranks,
    shared_positives,
    unshared_positives,
)
from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    recall_statistics,
    sliced_metrics,
    whole_metrics,
)

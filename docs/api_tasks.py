"""Tasks of the API page, with the public names of each task in reading order."""

# Heading, introduction, and names as a package and its public names.
TASKS = (
    (
        "Embed images and texts",
        "You open a trained model with `load_model` and get embeddings of unit length.",
        {"": ("load_model",), "embedders": ("Embedder",)},
    ),
    (
        "Search images",
        "You index images and search them with texts, images and conditions. "
        "[Search your images](../guides/search.md) explains the options.",
        {
            "search": ("Index", "Query", "Hit", "ModelIdentity"),
            "search.bulk_embeddings": ("embed",),
        },
    ),
    (
        "Build and train a model in Keras",
        "You train `ALIGN` with `compile` and `fit` like any Keras model. [In "
        "Python](../guides/python.md) explains the steps.",
        {
            "": (
                "ALIGN",
                "presets",
                "ImageEncoder",
                "TextEncoder",
                "ALIGNPreprocessor",
                "ALIGNImageConverter",
                "ALIGNTokenizer",
                "learn_vocabulary",
            ),
            "models": (
                "ImageClassifier",
                "image_text_batches",
                "load_image_weights",
                "load_text_weights",
                "preset_names",
            ),
        },
    ),
    (
        "Choose a loss",
        "You pass a loss to `ALIGN.compile`, or use the functions in your own loop.",
        {
            "": ("ContrastiveLoss", "contrastive_loss"),
            "losses": ("SigmoidLoss", "PairLoss", "gather_replicas"),
        },
    ),
    (
        "Choose an optimizer and a schedule",
        "You pass an optimizer to `ALIGN.compile`.",
        {
            "": ("Lamb",),
            "optimizers": (
                "AdamW",
                "Muon",
                "paper_schedule",
                "LinearWarmup",
                "apply_if",
            ),
        },
    ),
    (
        "Use the layers",
        "You can use the layers of the encoders in your own models.",
        {
            "layers": (
                "Temperature",
                "L2Normalization",
                "MBConvBlock",
                "FusedBatchNormalization",
                "Activation",
            )
        },
    ),
    (
        "Train an experiment",
        "You run the experiments of the command line from Python.",
        {
            "": ("train_experiment", "open_run"),
            "config": ("load_config",),
        },
    ),
    (
        "Build a corpus",
        "You build training pairs from web pages, archives and tables. [Build a "
        "corpus](../guides/corpus.md) explains the stages.",
        {
            "": ("build_corpus",),
            "config": ("load_corpus_config",),
            "corpus": ("Thresholds", "extract_pairs", "Pair", "filter_pairs"),
            "datasets": ("open_corpus", "open_sources"),
        },
    ),
    (
        "Evaluate a model with a protocol",
        "You run the protocols of the paper. [Evaluate](../guides/evaluate.md) lists "
        "them.",
        {"": ("evaluate",)},
    ),
    (
        "Measure retrieval",
        "You compute recalls from your own embeddings.",
        {
            "": ("recall_at_k",),
            "evaluation": (
                "retrieval_metrics",
                "RetrievalPositives",
                "shared_positives",
                "unshared_positives",
                "flatten_captions",
                "mean_recall",
                "retrieval_ranks",
                "metrics_of_retrieval_ranks",
                "rank_of_best_positive",
                "recall_of_ranks",
                "count_without_positives",
                "chance_recall_at_k",
                "multilingual_metrics",
                "multilingual_ranks",
                "LanguageRanks",
                "multilingual_outcomes",
                "rank_composed_queries",
                "composed_metrics",
                "composed_statistics",
            ),
        },
    ),
    (
        "Measure classification",
        "You classify images by their embeddings and compute accuracies.",
        {
            "evaluation": (
                "class_embeddings",
                "zero_shot_classification",
                "Classification",
                "classification_metrics",
                "classification_statistics",
                "mean_per_class",
                "nearest_neighbors",
                "neighbor_ranks",
                "fit_logistic_regression",
                "probe",
                "fine_tuned_metrics",
                "fine_tuned_statistics",
                "vtab_metrics",
                "vtab_statistics",
            )
        },
    ),
    (
        "Measure similarity",
        "You compare cosine similarities with human ratings.",
        {
            "evaluation": (
                "spearman",
                "word_cosines",
                "simlex_metrics",
                "simlex_statistics",
                "cxc_similarity_metrics",
                "cxc_similarity_statistics",
            )
        },
    ),
    (
        "Report metrics by group",
        "You compute metrics for groups of items, with confidence intervals.",
        {
            "evaluation": (
                "sliced_metrics",
                "whole_metrics",
                "Statistic",
                "mean_statistics",
                "recall_statistics",
                "item_outcomes",
            )
        },
    ),
    (
        "Share a model",
        "You upload a model to the Hugging Face Hub. [Share a model]"
        "(../guides/share.md) explains the options.",
        {"": ("push_to_hub",)},
    ),
    (
        "Export a model",
        "You write a model for servers, phones and browsers. "
        "[Deploy](../guides/deploy.md) explains the formats.",
        {"": ("export_model", "export_saved_model")},
    ),
    (
        "Estimate time, memory and disk space",
        "You estimate a run, a corpus or an index before you start it.",
        {
            "planning": (
                "plan",
                "plan_recipe",
                "plan_corpus",
                "plan_index",
                "find_device_kind",
                "plan_step",
                "RunSizes",
                "StepPlan",
            )
        },
    ),
    (
        "Handle errors and storage",
        "You catch one class for all mistakes in inputs, and write to object stores.",
        {"": ("InputError",), "utils.mirror": ("mirrored",)},
    ),
)

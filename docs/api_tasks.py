"""Tasks of the API page, with the public names of each task in reading order."""

import public_api

# Heading, introduction, and names as a package and its public names.
TASKS = (
    (
        "Embed images and texts",
        "You open a trained model with `load_model` and get embeddings of unit length.",
        {"": ("load_model",), "embedders": ("Embedder", "LabelThresholds")},
    ),
    (
        "Search images",
        "You index images and search them with texts, images and conditions. "
        "[Search your images](../guides/search.md) explains the options.",
        {
            "search": ("Index", "Query", "Hit", "ModelIdentity"),
            "search.bulk_embeddings": ("embed", "Embedded"),
        },
    ),
    (
        "Build and train a model in Keras",
        "You train `ALIGN` with `compile` and `fit` like any Keras model. [Train in "
        "Python](../guides/python.md) explains the steps.",
        {
            "": (
                "ALIGN",
                "ALIGNBackbone",
                "ImageEncoder",
                "TextEncoder",
                "ALIGNPreprocessor",
                "ALIGNImageConverter",
                "ALIGNTokenizer",
            ),
            "models": (
                "ImageClassifier",
                "image_text_batches",
                "load_image_weights",
                "load_text_weights",
                "preset_names",
                "presets",
            ),
        },
    ),
    (
        "Choose a loss",
        "You pass a loss to `ALIGN.compile`, or use the functions in your own loop.",
        {
            "": ("ContrastiveLoss", "contrastive_loss"),
            "losses": (
                "SigmoidLoss",
                "MatryoshkaLoss",
                "DistillationLoss",
                "PairLoss",
                "gather_replicas",
            ),
        },
    ),
    (
        "Distill a teacher",
        "You train a small model with the embeddings of a larger one. [Distill into a "
        "small model](../guides/distillation.md) explains the losses.",
        {"": ("teacher_embeddings",), "models": ("TeacherEmbeddings",)},
    ),
    (
        "Choose an optimizer and a schedule",
        "You pass an optimizer to `ALIGN.compile`.",
        {
            "": ("Lamb",),
            "optimizers": (
                "AdamW",
                "Muon",
                "SGD",
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
            "": (
                "train_experiment",
                "evaluate_experiment",
                "index_experiment",
                "finetune",
                "open_run",
            ),
            "runs.finished_run": ("Run",),
            "training": ("train_model", "TrainingDoctor", "Finding"),
        },
    ),
    (
        "Load and save configurations",
        "You load, change and check the options of experiments, corpora and recipes. "
        "[Configuration](configuration.md) lists them.",
        {
            "config": (
                "ExperimentConfig",
                "CorpusConfig",
                "FineTuningConfig",
                "TrainerConfig",
                "load_config",
                "load_corpus_config",
                "load_recipe",
                "experiments",
                "find_experiment",
                "resolve_config",
                "validate",
                "write_config_file",
                "changed_keys",
            )
        },
    ),
    (
        "Build a corpus",
        "You build training pairs from web pages, archives and tables. [How a corpus "
        "is built](../how/corpus.md) explains the stages.",
        {
            "": ("build_corpus", "score_corpus"),
            "runs.corpus_build": ("Corpus",),
            "corpus.scores": ("ScoreTable", "Selection", "ShardSelection"),
            "corpus": (
                "Thresholds",
                "extract_pairs",
                "Pair",
                "filter_pairs",
                "write_uid_subset",
            ),
        },
    ),
    (
        "Open pairs",
        "You open tables, shards and the corpora of the package as data sets of TFDS. "
        "[Your own pairs](../guides/own_pairs.md) explains the formats.",
        {
            "datasets": (
                "open_corpus",
                "open_sources",
                "UserPairs",
                "GroupedPairs",
                "PreparedPairs",
                "Mixture",
                "SelectedPairs",
                "Icons",
                "Stamps",
            )
        },
    ),
    (
        "Make batches",
        "You turn stored pairs or images with classes into batches for your own loop.",
        {
            "data": (
                "training_batches",
                "batch_ids",
                "read_retrieval_set",
                "RetrievalSet",
                "labeled_batches",
                "evaluation_batches",
                "unreadable_rows",
            )
        },
    ),
    (
        "Decode and augment images",
        "You decode, resize, crop and augment images as graph operations.",
        {
            "images": (
                "decode_image",
                "read_image",
                "readable_images",
                "preprocess_image",
                "preprocess_image_bytes",
                "resize_image",
                "crop_size_to_resize_size",
                "uint8_pixels",
                "crop_image",
                "crop_image_bytes",
                "inception_crop",
                "central_crop",
                "random_flip",
                "augment_images",
            )
        },
    ),
    (
        "Tokenize captions",
        "You learn, store and use a WordPiece vocabulary.",
        {
            "": ("learn_vocabulary",),
            "text": (
                "save_vocabulary",
                "load_vocabulary",
                "vocabulary_fingerprint",
                "WordPieceTokenizer",
            ),
        },
    ),
    (
        "Evaluate a model with a protocol",
        "You run the protocols of the paper, or the benchmarks of others. "
        "[Evaluate](../guides/evaluate.md) and [Benchmarks of "
        "others](../guides/other_benchmarks.md) list them.",
        {
            "": ("evaluate", "mteb_model"),
            "embedders": ("MTEBEncoder",),
        },
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
        "Estimate time and memory",
        "You estimate a run before you start it. [Estimate time and memory of a "
        "run](../guides/plan.md) explains the result.",
        {"planning": ("plan", "plan_recipe")},
    ),
    (
        "Handle errors and storage",
        "You catch one class for all mistakes in inputs, and write to object stores.",
        {"": ("InputError",), "utils.mirror": ("mirrored",)},
    ),
)


def listed_names():
    """Returns the package or module and the name of each entry, in order."""
    return [
        (package, name)
        for _, _, packages in TASKS
        for package, names in packages.items()
        for name in names
    ]


def wrong_names():
    """Compares the entries with `__all__` of all packages.

    A name of align_keras has one entry, although its package has the name too.

    Returns:
        tuple of two sorted lists: public names without an entry, and names with several
        entries.
    """
    entries = [name for _, name in listed_names()]
    packages = ["", *public_api.public_packages()]
    public = {name for package in packages for name in public_api.public_names(package)}
    repeated = {name for name in entries if entries.count(name) > 1}
    return sorted(public.difference(entries)), sorted(repeated)

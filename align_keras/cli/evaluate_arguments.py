"""The arguments of `align-keras evaluate`, and what each protocol takes."""

import argparse

# Name → what it measures; repeated here, since the protocols import much.
PROTOCOLS = {
    "retrieval": "recall of captions and pictures (table 1)",
    "cxc_retrieval": "the same within modalities too, by CxC's ratings (table 2)",
    "cxc_similarity": "correlation with CxC's ratings (table 3)",
    "zero_shot": "classification by class names in templates (table 4)",
    "imagenet_frozen": "a classifier on the frozen image encoder (table 5)",
    "imagenet_full": "the image encoder fine-tuned (table 5)",
    "vtab": "19 tasks of 1,000 pictures (table 6)",
    "fine_grained": "the encoder fine-tuned in two stages (table 7)",
    "knn": "the class of the nearest training pictures (tables 8 to 10)",
    "linear_probe": "logistic regression on the embeddings",
    "multi30k": "mean recall in four languages (table 11)",
    "simlex": "similarity of words (table 12)",
    "composed": "picture ± words finds another icon (figure 5)",
}
# Those that are measured on one set of the paper where none is named, and those
# whose metrics are made of items with columns.
WITH_USUAL_DATA = (
    "cxc_retrieval",
    "cxc_similarity",
    "multi30k",
    "simlex",
    "composed",
    "vtab",
)
# Those of pictures, to which a table of metadata can be joined.
WITH_METADATA = tuple(name for name in PROTOCOLS if name != "simlex")
# Those that learn from a split of the data, and those that train by a recipe.
LEARNING = (
    "knn",
    "linear_probe",
    "imagenet_frozen",
    "imagenet_full",
    "fine_grained",
)
TRAINED = ("imagenet_frozen", "imagenet_full", "fine_grained", "vtab")

# What only some protocols take; the others would ignore it.
ONLY_FOR = (
    (("retrieval",), ("image_column", "caption_column", "encoding")),
    (("zero_shot",), ("templates",)),
    (("composed",), ("text_weight",)),
    (("zero_shot", *LEARNING), ("classes",)),
    (LEARNING, ("train_split",)),
    (TRAINED, ("results", "config_file", "params_override", "workers")),
    (WITH_METADATA, ("metadata",)),
    (
        tuple(own for own in PROTOCOLS if own not in ("simlex", "multi30k", "vtab")),
        ("split",),
    ),
    (tuple(own for own in PROTOCOLS if own not in ("simlex", *TRAINED)), ("engine",)),
    (
        ("retrieval", "cxc_retrieval", "cxc_similarity", "multi30k"),
        ("allow_missing",),
    ),
)


def add_arguments(parser):
    """Adds the command's arguments to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "protocols:\n" + "\n".join(
        f"  {name:<16} {meaning}" for name, meaning in PROTOCOLS.items()
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a run folder, an export, a Hugging Face folder or hf://user/model",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--protocol", metavar="P", help="one of those below")
    what.add_argument(
        "--suite",
        choices=("paper",),
        help="every protocol of the paper whose data is there, beside its figures",
    )
    _add_data_arguments(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page of results")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder of embeddings (default: align_keras/embeddings in the user's "
        "cache folder)",
    )
    parser.add_argument(
        "--engine",
        metavar="E",
        help="what embeds pictures, instead of TensorFlow: openvino, "
        "openvino_bfloat16, or the model's image.tflite by align-keras export",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not tables")
    _add_training_arguments(parser)


def _add_data_arguments(parser):
    parser.add_argument(
        "--data",
        metavar="D",
        help="flickr30k, coco, cxc, multi30k, simlex999; stamps, icons; a TFDS data "
        "set; or the path of captioned pictures or of a folder of classes",
    )
    parser.add_argument(
        "--data_root",
        default="data",
        metavar="DIR",
        help="folder that holds flickr30k/, coco/, cxc/, multi30k/ and SimLex-999/ "
        "(default: %(default)s)",
    )
    parser.add_argument("--split", help="the split to judge, if not the usual one")
    parser.add_argument(
        "--train_split", help="the split that knn and probes learn from"
    )
    parser.add_argument(
        "--templates",
        metavar="T",
        help="prompts of zero_shot: photos, drawings, default (both), none, a file "
        "with {} in each line, or clip:DATASET of an installed clip-benchmark",
    )
    parser.add_argument(
        "--text_weight",
        type=float,
        metavar="W",
        help="of composed: the words' weight, the picture's being 1 (default 2)",
    )
    parser.add_argument(
        "--classes",
        metavar="C",
        help="class names: a file with one a line, JSON, or clip:DATASET",
    )
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        default=None,  # Not False, so that it is told from what was given.
        help="leave missing pictures out",
    )
    _add_table_arguments(parser)


def _add_table_arguments(parser):
    parser.add_argument("--image_column", metavar="C", help="a table's image paths")
    parser.add_argument("--caption_column", metavar="C", help="a table's captions")
    parser.add_argument(
        "--encoding", metavar="E", help="of a table or its captions (default utf-8)"
    )
    parser.add_argument(
        "--slice_by",
        metavar="COLUMN",
        help="also give every metric by this column of the data, with 95%% intervals",
    )
    parser.add_argument(
        "--metadata",
        metavar="FILE",
        help="a CSV or TSV of further columns for --slice_by; its first column holds "
        "the pictures' ids: file names, in a folder of classes the paths below the "
        "split's, of a table its paths or ids",
    )


def _add_training_arguments(parser):
    training = parser.add_argument_group(f"{', '.join(TRAINED[:-1])} and {TRAINED[-1]}")
    training.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that train at once (default: 1)",
    )
    training.add_argument(
        "--results",
        metavar="DIR",
        help="folder of what was trained, from which the same command goes on "
        "(default: align_keras/fine_tuned in the user's cache folder)",
    )
    training.add_argument(
        "--config_file",
        action="append",
        metavar="FILE",
        help="YAML to lay over the recipe of experiments/evaluation/; may be repeated",
    )
    training.add_argument(
        "--params_override",
        action="append",
        metavar="K=V,…",
        help="options to lay over that, such as head.steps=1000,runs=1",
    )

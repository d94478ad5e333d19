"""Readers of the public benchmarks, of a user's captioned pictures, and of ours."""

from align_keras.datasets.benchmarks.caption_files import read_caption_files
from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
from align_keras.datasets.benchmarks.class_folders import read_class_folders
from align_keras.datasets.benchmarks.class_names import (
    check_names_for_prompts,
    read_class_names,
    rename_classes,
)
from align_keras.datasets.benchmarks.composed import (
    ComposedQuery,
    composed_icon_queries,
)
from align_keras.datasets.benchmarks.cxc import CxcRatings, RatedPair, read_cxc
from align_keras.datasets.benchmarks.cxc_pairs import (
    CxcPositives,
    cxc_captioned_images,
    cxc_positives,
    cxc_rated_rows,
)
from align_keras.datasets.benchmarks.karpathy import read_karpathy
from align_keras.datasets.benchmarks.labelled_images import (
    LabelledImages,
    only_occurring_classes,
)
from align_keras.datasets.benchmarks.metadata import (
    Metadata,
    join_metadata,
    read_metadata,
)
from align_keras.datasets.benchmarks.multi30k import read_multi30k
from align_keras.datasets.benchmarks.multilingual_captions import MultilingualCaptions
from align_keras.datasets.benchmarks.simlex import SimLexPair, read_simlex
from align_keras.datasets.benchmarks.stamps_by_category import stamps_by_category
from align_keras.datasets.benchmarks.stamps_captions import stamps_captions_by_language
from align_keras.datasets.benchmarks.stored_pictures import (
    StoredPicture,
    read_stored_pictures,
)
from align_keras.datasets.benchmarks.templates import read_templates
from align_keras.datasets.benchmarks.tfds_classification import (
    prepared_builder,
    read_tfds_classification,
    tfds_splits_overlap,
)

__all__ = [
    "CaptionedImages",
    "ComposedQuery",
    "CxcPositives",
    "CxcRatings",
    "LabelledImages",
    "Metadata",
    "MultilingualCaptions",
    "RatedPair",
    "SimLexPair",
    "StoredPicture",
    "check_names_for_prompts",
    "composed_icon_queries",
    "cxc_captioned_images",
    "cxc_positives",
    "cxc_rated_rows",
    "join_metadata",
    "only_occurring_classes",
    "prepared_builder",
    "read_caption_files",
    "read_class_folders",
    "read_class_names",
    "read_cxc",
    "read_karpathy",
    "read_metadata",
    "read_multi30k",
    "read_simlex",
    "read_stored_pictures",
    "read_templates",
    "read_tfds_classification",
    "rename_classes",
    "stamps_by_category",
    "stamps_captions_by_language",
    "tfds_splits_overlap",
]

"""Readers of evaluation data: public benchmarks, user images and built corpora."""

from align_keras.datasets.benchmarks.captioned_images import (
    CaptionedImages,
    MultilingualCaptions,
    read_caption_files,
    read_karpathy,
    stamps_captions_by_language,
)
from align_keras.datasets.benchmarks.class_names import (
    check_names_for_prompts,
    read_class_names,
    read_templates,
    rename_classes,
)
from align_keras.datasets.benchmarks.composed_queries import (
    ComposedQuery,
    composed_icon_queries,
)
from align_keras.datasets.benchmarks.cxc import (
    CxcPositives,
    CxcRatings,
    RatedPair,
    cxc_captioned_images,
    cxc_positives,
    cxc_rated_rows,
    read_cxc,
)
from align_keras.datasets.benchmarks.labeled_images import (
    LabeledImages,
    folders_of_splits,
    only_occurring_classes,
    read_class_folders,
)
from align_keras.datasets.benchmarks.metadata import (
    Metadata,
    join_metadata,
    read_metadata_table,
)
from align_keras.datasets.benchmarks.multi30k import read_multi30k
from align_keras.datasets.benchmarks.shard_folders import (
    is_shard_folder,
    read_shard_captions,
    read_shard_classes,
    shard_templates,
)
from align_keras.datasets.benchmarks.simlex import SimLexPair, read_simlex
from align_keras.datasets.benchmarks.tfds_images import (
    StoredImage,
    prepared_builder,
    read_stored_images,
    read_tfds_classification,
    stamps_by_category,
    tfds_splits_overlap,
)

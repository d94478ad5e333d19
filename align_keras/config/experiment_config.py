"""Options of a run in the sections `task`, `trainer` and `runtime`.

The sections are those of TF Model Garden. The defaults are the recipe of Jia et al.
2021 (sections 4.1 and 5) for EfficientNet-B7 and BERT-base, the largest model of their
ablations. A one-of section has several members with their own options, and its `type`
selects one of them.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from align_keras.config.fields import CHANGEABLE, Fraction, Section, Seed, named_items

# fmt: off
ImageVariantName = Literal[
    "efficientnet_nano", "efficientnet_micro", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5",
    "efficientnet_b6", "efficientnet_b7", "efficientnet_b8", "efficientnet_l2",
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2",
    "efficientnet_lite3", "efficientnet_lite4",
]
TextVariantName = Literal[
    "bert_tiny", "bert_mini", "bert_medium", "bert_base", "bert_large",
    "distil_bert_base", "albert_base", "albert_large", "electra_small", "minilm_l6",
]
# fmt: on
# Modes of `align_keras.models.ImageEncoder.set_training`.
TrainingMode = Literal["frozen", "projection", "last_blocks", "lora", "full"]
# Each tracker has a function in `align_keras.training.trackers`.
TrackerName = Literal["tensorboard", "mlflow", "wandb"]


class _OneOf(Section):
    """Section with several members, one of which is used."""

    type: Any

    def get(self) -> Any:
        """Returns the member that is used, or None if `type` is None."""
        return self.type and getattr(self, self.type)


class _EncoderConfig(Section):
    """Options of both encoders."""

    training: TrainingMode | None = Field(
        default=None,
        description=(
            "Weights that are trained: `frozen` for none, `projection`, `last_blocks` "
            "for the last `blocks` blocks and all layers after them, `lora` for "
            "low-rank factors, `full` for all, or null for `projection` if `locked` "
            "is true and `full` otherwise. Frozen layers run in inference mode."
        ),
    )
    blocks: PositiveInt | None = Field(
        default=None,
        description="Number of blocks for `training: last_blocks`, or null for 2.",
    )
    rank: PositiveInt | None = Field(
        default=None,
        description="Rank of the factors for `training: lora`, or null for 8.",
    )
    locked: bool = Field(
        default=False,
        description=(
            "True to train only the projection. It is the same as `training: "
            "projection`."
        ),
    )
    learning_rate_multiplier: PositiveFloat = Field(
        default=1.0,
        description=(
            "Factor of the learning rate of all variables except the projection."
        ),
    )

    @property
    def training_mode(self) -> TrainingMode:
        """Value of `training`, or the value that `locked` implies."""
        if self.training is not None:
            return self.training
        return "projection" if self.locked else "full"


class ImageEncoderConfig(_EncoderConfig):
    """EfficientNet image tower.

    References:
        Jia et al. 2021, section 5: 289 pixels.
    """

    variant: ImageVariantName = Field(
        default="efficientnet_b7", description="Name of the EfficientNet."
    )
    width_coefficient: PositiveFloat | None = Field(
        default=None, description="Width coefficient, or null for that of the variant."
    )
    depth_coefficient: PositiveFloat | None = Field(
        default=None, description="Depth coefficient, or null for that of the variant."
    )
    num_stages: int = Field(
        default=7,
        ge=1,
        le=7,
        description="Number of EfficientNet stages, counted from the first of seven.",
    )
    image_size: int = Field(
        default=289, ge=32, description="Side of the input in pixels."
    )
    padding: Literal["tf", "hugging_face"] | None = Field(
        default=None,
        description=(
            "Padding of convolutions with stride 2: `tf` as in the open-source "
            "EfficientNet, `hugging_face`, or null for the padding of the weights."
        ),
    )
    num_classes: int | None = Field(
        default=None,
        ge=2,
        description=(
            "Number of classes of the classifier in the weights. The class "
            "probabilities are then appended to the features. null removes the "
            "classifier, as in the paper."
        ),
    )
    drop_connect_rate: Fraction = Field(
        default=0.2, description="Drop-connect rate of the last block."
    )
    batch_norm_momentum: Fraction = Field(
        default=0.99, description="Momentum of the moving batch statistics."
    )
    batch_norm_epsilon: PositiveFloat = Field(
        default=1e-3, description="Constant that is added to the variances."
    )
    synchronized: bool = Field(
        default=False,
        description=(
            "True to compute batch statistics over all replicas, and false to compute "
            "them per replica."
        ),
    )
    virtual_batch_size: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of rows of a replica with common batch statistics, or null for "
            "all rows."
        ),
    )
    replicas_per_group: NonNegativeInt | None = Field(
        default=None,
        description=(
            "Number of replicas with common batch statistics, null for one replica, "
            "or 0 for the number that the open-source EfficientNet uses."
        ),
    )
    freeze_batch_statistics: bool = Field(
        default=False,
        description="True to normalize by the moving statistics in training.",
    )
    rematerialize: bool = Field(
        default=False,
        description=(
            "True to save memory by computing activations again for the gradient."
        ),
        json_schema_extra=CHANGEABLE,
    )
    weights: str | None = Field(
        default=None,
        description=(
            "Name or path of pretrained weights, as in "
            "`align_keras.models.load_image_weights`, or null for random weights."
        ),
    )


class TextEncoderConfig(_EncoderConfig):
    """Text tower, which is a BERT or a related transformer.

    References:
        Jia et al. 2021, sections 4.1 (100k WordPiece tokens) and 5 (at most 64 tokens).
    """

    variant: TextVariantName = Field(
        default="bert_base", description="Name of the transformer."
    )
    num_layers: PositiveInt | None = Field(
        default=None, description="Number of layers, or null for that of the variant."
    )
    hidden_dim: PositiveInt | None = Field(
        default=None,
        description=(
            "Width of the layers, a multiple of `num_heads`, or null for that of the "
            "variant."
        ),
    )
    num_heads: PositiveInt | None = Field(
        default=None,
        description="Number of attention heads, or null for that of the variant.",
    )
    intermediate_dim: PositiveInt | None = Field(
        default=None,
        description=(
            "Width of the feed-forward layers, or null for that of the variant."
        ),
    )
    dropout: Fraction = Field(default=0.1, description="Dropout rate.")
    vocabulary: str | None = Field(
        default=None,
        description=(
            "Path of a vocabulary.txt, or null to learn a vocabulary from the captions."
        ),
    )
    vocabulary_size: int = Field(
        default=100_000, ge=10, description="Number of WordPiece tokens to learn."
    )
    normalization: Literal["bert_uncased", "bert_cased"] = Field(
        default="bert_uncased",
        description="Text normalization with which the vocabulary was learned.",
    )
    sequence_length: int = Field(
        default=64,
        ge=3,
        description="Number of tokens of a caption, including [CLS] and [SEP].",
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=3,
        description=(
            "Number of position embeddings, at least `sequence_length`, or null for "
            "`sequence_length`."
        ),
    )
    activation: Literal["gelu_approximate", "gelu"] = Field(
        default="gelu_approximate", description="Exact or approximate GELU."
    )
    pooling: Literal["cls", "mean"] = Field(
        default="cls", description="`cls` as in the paper, or `mean`."
    )
    rematerialize: bool = Field(
        default=False,
        description=(
            "True to save memory by computing activations again for the gradient."
        ),
        json_schema_extra=CHANGEABLE,
    )
    projection: bool = Field(
        default=True,
        description=(
            "True for a linear layer to `projection_dim`. False requires a "
            "`hidden_dim` that equals `projection_dim`."
        ),
    )
    weights: str | None = Field(
        default=None,
        description=(
            "Name or path of pretrained weights with their vocabulary, as in "
            "`align_keras.models.load_text_weights`, or null for random weights."
        ),
    )


class ModelConfig(Section):
    """Image tower, text tower, projections and temperature.

    References:
        Jia et al. 2021, sections 6.1 (B7's width of 640) and 5 (one learned
        temperature that starts at 1.0).
    """

    preset: str | None = Field(
        default=None,
        description=(
            "Name of a preset such as `align_b3_mini`, or null. A preset determines "
            "the variants, `image_size`, `sequence_length` and `projection_dim`."
        ),
    )
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    projection_dim: PositiveInt = Field(
        default=640, description="Dimension of the embeddings of both towers."
    )
    project_class_names: bool = Field(
        default=False,
        description=(
            "True to initialize the image projection with the text embeddings of the "
            "names of the 1,000 ImageNet classes. It requires "
            "`image_encoder.num_classes` of 1000, weights of both towers, and a text "
            "tower without projection."
        ),
    )
    initial_temperature: PositiveFloat | None = Field(
        default=1.0,
        description=(
            "Initial temperature, or null for that of the ALIGN in "
            "`image_encoder.weights`."
        ),
    )
    learn_temperature: bool = Field(
        default=True, description="False to keep the initial temperature."
    )


class _InBatchLossOptions(Section):
    """Options of the losses that compare all pairs of a batch."""

    share_equal_captions: bool = Field(
        default=False,
        description=(
            "True to treat pairs with equal captions as positives of each other."
        ),
    )
    share_equal_images: bool = Field(
        default=False,
        description=(
            "True to treat all captions of an image in a batch as positives of the "
            "image."
        ),
    )
    tile_size: NonNegativeInt = Field(
        default=0,
        description=(
            "Number of rows and columns of the logits that are in memory at once, or "
            "0 for the fastest method."
        ),
        json_schema_extra=CHANGEABLE,
    )


class ContrastiveLossConfig(_InBatchLossOptions):
    """Contrastive loss of the paper.

    References:
        Jia et al. 2021, sections 4.1 (the sum) and 5 (smoothing of 0.1), and
        table 8 (50% and 25% of the negatives).
    """

    label_smoothing: Fraction = Field(
        default=0.1,
        description=(
            "Fraction of the target probability that is distributed over all captions "
            "or images of the batch."
        ),
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum",
        description="`sum` or `mean` of the losses of the two directions.",
    )
    negatives_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "Fraction of the in-batch negatives that each pair uses. It must be 1 "
            "divided by a whole number."
        ),
    )
    matmul_dtype: Literal["bfloat16"] | None = Field(
        default=None,
        description="`bfloat16` for matrix products in half precision, or null.",
        json_schema_extra=CHANGEABLE,
    )


class SigmoidLossConfig(_InBatchLossOptions):
    """Sigmoid loss of SigLIP, which classifies each pair as matching or not.

    References:
        Zhai et al. 2023, section 3.2 (initial bias of -10 and temperature of 0.1).
    """

    bias: float | None = Field(
        default=None,
        le=0,
        description=(
            "Constant that is added to the logits, or null for the negative logarithm "
            "of the number of captions in the batch. The paper learns the bias."
        ),
    )


class MatryoshkaConfig(Section):
    """Loss at several widths of the embeddings.

    References:
        Kusupati et al. 2022, section 3.
    """

    widths: tuple[PositiveInt, ...] = Field(
        default=(),
        description=(
            "Numbers of first components of the embeddings at which the loss is "
            "computed in addition to all components. An empty list computes the loss "
            "of the complete embeddings only. Recall is measured at each width."
        ),
    )
    weights: tuple[PositiveFloat, ...] = Field(
        default=(),
        description=(
            "Weights of the losses of `widths` relative to the loss of the complete "
            "embeddings. An empty list is a weight of 1 for each width."
        ),
    )


class LossConfig(_OneOf):
    """Choice of the loss. Each member has a class in `align_keras.losses`."""

    type: Literal["contrastive", "sigmoid"] = Field(
        default="contrastive", description="Name of the member that is used."
    )
    contrastive: ContrastiveLossConfig = ContrastiveLossConfig()
    sigmoid: SigmoidLossConfig = SigmoidLossConfig()
    matryoshka: MatryoshkaConfig = MatryoshkaConfig()


class TeacherConfig(Section):
    """Item of the list `task.distillation.teacher`."""

    model: str = Field(
        description="Name or folder of the teacher, as in `align_keras.load_model`."
    )
    weight: PositiveFloat = Field(
        default=1.0,
        description=(
            "Weight of its similarities, relative to the weights of the other teachers."
        ),
    )


Teachers = Annotated[
    tuple[TeacherConfig, ...], Field(min_length=1), named_items(TeacherConfig)
]


class DistillationConfig(Section):
    """Distillation of trained models, the teachers.

    The losses are those of `align_keras.losses.DistillationLoss`.

    References:
        Hinton et al. 2015. Wu et al. 2023, section 3.1.
    """

    teacher: Teachers | None = Field(
        default=None,
        description=(
            "Name or folder of the teacher, as in `align_keras.load_model`, a list of "
            "several teachers, or null to train without a teacher. The similarity of "
            "an image and a caption is the weighted mean of those of all teachers."
        ),
    )
    embedding_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the squared distance between the embeddings and those of the "
            "teacher. A weight above 0 requires a `projection_dim` that equals the "
            "width of the teacher's embeddings. It must be 0 for several teachers."
        ),
    )
    similarity_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the divergence of the similarities in a batch from those of "
            "the teacher."
        ),
    )
    contrastive_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the loss in `task.loss`. With 0, the model learns only from "
            "the teacher."
        ),
    )
    temperature: PositiveFloat = Field(
        default=0.05,
        description="Temperature of the similarities of the model and of the teacher.",
    )


class SourceConfig(Section):
    """Item of the list `task.train_data.source`."""

    path: str = Field(description="File, folder, pattern or address.")
    weight: PositiveFloat | None = Field(
        default=None,
        description=(
            "Share of the pairs from this source, relative to the weights of the "
            "other sources. If all weights are null, the weights are the numbers of "
            "images of the sources."
        ),
    )


Sources = Annotated[
    tuple[SourceConfig, ...], Field(min_length=1), named_items(SourceConfig)
]


# Options with other defaults in the validation data.
Split = Annotated[
    str,
    Field(description="Split of the prepared data, such as `train[:90%]`, or `all`."),
]
BatchSize = Annotated[
    PositiveInt, Field(description="Number of pairs per step over all replicas.")
]
RandomCrop = Annotated[
    bool, Field(description="True for a random crop, and false for a central crop.")
]
RandomFlip = Annotated[
    bool, Field(description="True to flip half of the images horizontally.")
]


class DataConfig(Section):
    """Pairs of images and captions, and their batches.

    References:
        Jia et al. 2021, section 5: batches of 16384, random crop and flip.
    """

    corpus: str | None = Field(
        default=None,
        description=(
            "`icons`, `stamps`, a folder of `tools/make_drawings.py`, several of these "
            "joined by `+`, `pairs`, or the path of a data set that TFDS prepared, "
            "such as the output of `align-keras corpus`. An experiment must set it."
        ),
    )
    corpus_repeats: dict[str, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Number of times that an epoch contains the pairs of a corpus in a "
            "mixture, such as `{icons: 2}`, or null for once each. It is allowed in "
            "`train_data` only."
        ),
    )
    source: Sources | None = Field(
        default=None,
        description=(
            "Shards to read instead of a corpus: a path, or a list of `path` and "
            "`weight`, as in `align_keras.datasets.open_sources`. It is allowed in "
            "`train_data` only."
        ),
    )
    tfds_split: Split = "train"
    split_by: Literal["image", "image_and_caption"] = Field(
        default="image",
        description=(
            "How the corpus `pairs` is divided. `image` makes the splits `train` and "
            "`test`, which share no image. `image_and_caption` makes the splits "
            "`train`, `validation` and `test`, which share neither an image nor a "
            "caption."
        ),
    )
    tfds_data_dir: str | None = Field(
        default=None,
        description="Folder of the prepared data, or null for the default of TFDS.",
        json_schema_extra=CHANGEABLE,
    )
    pairs: str | None = Field(
        default=None, description="Table or folder of the corpus `pairs`."
    )
    image_column: str | None = Field(
        default=None,
        description=(
            "Column of the images in the table or the sources, or null to detect it."
        ),
    )
    caption_column: str | None = Field(
        default=None,
        description=(
            "Column of the captions in the table or the sources, or null to detect it."
        ),
    )
    caption_sources: dict[str, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Probability of each source of captions, such as `{alt: 0.7, synthetic: "
            "0.3}`, or null to draw all captions of an image with equal probability. "
            "The sources are columns of captions in the table, or values of its "
            "column `source`. In the shards of `source` they are columns, keys of the "
            "`.json` members of a tar, or features of TFRecord files. The "
            "probabilities are divided by the sum over the sources that an image has."
        ),
    )
    where: str | None = Field(
        default=None,
        description=(
            "Condition on the scores of `align-keras corpus score`, such as "
            "`similarity > 0.2 and detected_language = 'en'`, or null for all pairs. "
            "It requires that `corpus`, or each `source`, is a corpus that "
            "`align-keras corpus` built."
        ),
    )
    encoding: str = Field(
        default="utf-8", description="Text encoding of the table and of caption files."
    )
    max_bad_fraction: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum fraction of unusable pairs.",
        json_schema_extra=CHANGEABLE,
    )
    global_batch_size: BatchSize = 16_384
    micro_batch_size: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of pairs that a replica embeds at a time, or null for the whole "
            "batch."
        ),
    )
    shuffle_buffer_size: PositiveInt = Field(
        default=20_000, description="Number of pairs in the shuffle buffer."
    )
    pair_weighted: bool = Field(
        default=False,
        description=(
            "True to use every caption of an image once per epoch, as in the paper. "
            "False uses every image once per epoch with a random caption."
        ),
    )
    cache: bool = Field(
        default=False, description="True to keep decoded images in memory."
    )
    data_service: str | None = Field(
        default=None,
        description=(
            "Address of the dispatcher of a tf.data service, such as "
            "`grpc://host:5000`, or null. The order of its batches is not "
            "deterministic."
        ),
        json_schema_extra=CHANGEABLE,
    )
    seed: NonNegativeInt | None = Field(
        default=None,
        description=(
            "Seed of shuffling and augmentation, or null for that of the trainer."
        ),
    )
    random_crop: RandomCrop = True
    resize_before_crop: bool = Field(
        default=False,
        description=(
            "True to resize the whole image before a random crop, as the paper does. "
            "It is slower. `align_keras.images.crop_image_bytes` lists the "
            "differences."
        ),
    )
    random_flip: RandomFlip = True
    random_zoom: NonNegativeFloat = Field(
        default=0.0,
        description=(
            "Each side of a crop is scaled by a random factor between "
            "exp(-random_zoom) and exp(random_zoom)."
        ),
    )
    random_shift: NonNegativeFloat = Field(
        default=0.0, description="Maximum shift of a crop as a fraction of its side."
    )
    random_recolor: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Fraction of the images with random colors and polarity, for drawings."
        ),
    )


class ValidationDataConfig(DataConfig):
    """Validation pairs. All of them are evaluated without augmentation."""

    tfds_split: Split = "test"
    global_batch_size: BatchSize = 256
    random_crop: RandomCrop = False
    random_flip: RandomFlip = False


class EvaluationConfig(Section):
    """Metrics of a run.

    References:
        Jia et al. 2021, table 1.
    """

    ks: tuple[PositiveInt, ...] = Field(
        default=(1, 5, 10), description="Values of k for Recall@k in increasing order."
    )


class TaskConfig(Section):
    """Section `task`."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()
    train_data: DataConfig = DataConfig()
    validation_data: ValidationDataConfig = Field(
        default=ValidationDataConfig(), json_schema_extra=CHANGEABLE
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), json_schema_extra=CHANGEABLE
    )


# LAMB usually excludes biases and normalization parameters. The temperature is excluded
# too, because it would change by the relative learning rate at every step.
_EXCLUDED = ("bias", "gamma", "beta", "temperature")
# Options with other defaults in some optimizers.
WeightDecay = Annotated[
    NonNegativeFloat,
    Field(
        description=(
            "Weight decay. It is decoupled from the gradient, except in SGD, where it "
            "is the weight of an L2 penalty."
        ),
        json_schema_extra=CHANGEABLE,
    ),
]
Epsilon = Annotated[
    PositiveFloat,
    Field(description="Constant that is added to the denominator of the update."),
]


class _OptimizerOptions(Section):
    """Options of all optimizers."""

    weight_decay: WeightDecay = 1e-5
    exclude_from_weight_decay: tuple[str, ...] = Field(
        default=_EXCLUDED,
        description=(
            "Regular expressions of the paths of variables without weight decay and "
            "trust ratio."
        ),
    )
    global_clipnorm: PositiveFloat | None = Field(
        default=None,
        description="Maximum global norm of the gradients, or null.",
        json_schema_extra=CHANGEABLE,
    )


class AdamWConfig(_OptimizerOptions):
    """AdamW, which is Adam with decoupled weight decay."""

    beta_1: Fraction = Field(
        default=0.9, description="Decay rate of the moving average of the gradient."
    )
    beta_2: Fraction = Field(
        default=0.999,
        description="Decay rate of the moving average of the squared gradient.",
    )
    epsilon: Epsilon = 1e-7


class LambConfig(AdamWConfig):
    """LAMB, the paper's optimizer.

    References:
        Jia et al. 2021, section 5 (weight decay of 1e-5). You et al. 2020 for the other
        options, which Jia et al. don't state.
    """

    epsilon: Epsilon = 1e-6


class MuonConfig(AdamWConfig):
    """Muon, which orthogonalizes the momentum of matrices.

    Other variables use AdamW.

    References:
        Jordan et al. 2024. Liu et al. 2025, arXiv:2502.16982.
    """

    momentum: Fraction = Field(default=0.95, description="Momentum of matrices.")


class SGDConfig(_OptimizerOptions):
    """SGD with momentum.

    References:
        Jia et al. 2021, section 5.3 (momentum of 0.9 for fine-tuning on ImageNet).
    """

    weight_decay: WeightDecay = 0.0
    momentum: Fraction = Field(default=0.9, description="Momentum of the update.")
    nesterov: bool = Field(default=False, description="True for Nesterov momentum.")


class OptimizerConfig(_OneOf):
    """Choice of the optimizer."""

    type: Literal["lamb", "adamw", "muon", "sgd"] = Field(
        default="lamb", description="Name of the member that is used."
    )
    lamb: LambConfig = LambConfig()
    adamw: AdamWConfig = AdamWConfig()
    muon: MuonConfig = MuonConfig()
    sgd: SGDConfig = SGDConfig()


class _DecayOptions(Section):
    """Options of learning rates that decay."""

    initial_learning_rate: PositiveFloat = Field(
        default=1e-3, description="Learning rate after the warm-up."
    )
    decay_steps: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of steps of the decay, or null for all steps after the warm-up."
        ),
    )


class LinearDecayConfig(_DecayOptions):
    """Linear decay of the learning rate.

    References:
        Jia et al. 2021, section 5 (decay from 1e-3 to zero).
    """

    end_learning_rate: NonNegativeFloat = Field(
        default=0.0, description="Learning rate at the end of the decay."
    )


class CosineDecayConfig(_DecayOptions):
    """Cosine decay of the learning rate."""

    alpha: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Learning rate at the end of the decay as a fraction of the initial one."
        ),
    )


class StepwiseConfig(Section):
    """Piecewise constant learning rate."""

    boundaries: tuple[PositiveInt, ...] = Field(
        default=(100_000,),
        description=(
            "Numbers of steps after the warm-up at which the learning rate changes, "
            "in increasing order."
        ),
    )
    values: tuple[PositiveFloat, ...] = Field(
        default=(1e-3, 1e-4),
        description="Learning rates before, between and after the boundaries.",
    )


class ConstantConfig(Section):
    """Constant learning rate."""

    learning_rate: PositiveFloat = Field(
        default=1e-3, description="Learning rate of all steps after the warm-up."
    )


class LearningRateConfig(_OneOf):
    """Choice of the learning-rate schedule."""

    type: Literal["linear", "cosine", "stepwise", "constant"] = Field(
        default="linear", description="Name of the member that is used."
    )
    linear: LinearDecayConfig = LinearDecayConfig()
    cosine: CosineDecayConfig = CosineDecayConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    constant: ConstantConfig = ConstantConfig()


class LinearWarmupConfig(Section):
    """Linear warm-up of the learning rate.

    References:
        Jia et al. 2021, section 5 (from zero in 10k steps).
    """

    warmup_steps: NonNegativeInt = Field(
        default=10_000,
        description="Number of steps of the warm-up, or 0 for no warm-up.",
    )
    warmup_learning_rate: NonNegativeFloat = Field(
        default=0.0, description="Learning rate at the first step."
    )


class WarmupConfig(_OneOf):
    """Choice of the warm-up."""

    type: Literal["linear"] | None = Field(
        default="linear",
        description="Name of the member that is used, or null for no warm-up.",
    )
    linear: LinearWarmupConfig = LinearWarmupConfig()


class EMAConfig(Section):
    """Exponential moving average of the weights for evaluation and the final model."""

    average_decay: Fraction | None = Field(
        default=None, description="Decay rate of the average, or null for no average."
    )


class OptimizationConfig(Section):
    """Optimizer, learning rate, warm-up and moving average of the weights."""

    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: LearningRateConfig = Field(
        default=LearningRateConfig(), json_schema_extra=CHANGEABLE
    )
    warmup: WarmupConfig = Field(default=WarmupConfig(), json_schema_extra=CHANGEABLE)
    ema: EMAConfig = EMAConfig()


class TrainerConfig(Section):
    """Section `trainer`. Intervals are numbers of steps, multiples of `steps_per_loop`.

    References:
        Jia et al. 2021, section 5 (1.2M steps).

    Example:
    >>> TrainerConfig(train_steps=5_000).checkpoint_interval
    10000
    """

    train_steps: PositiveInt = Field(
        default=1_200_000,
        description="Number of steps of the run.",
        json_schema_extra=CHANGEABLE,
    )
    steps_per_loop: PositiveInt = Field(
        default=1_000,
        description=(
            "Number of steps between two log lines. The logged loss is the mean over "
            "these steps."
        ),
    )
    checkpoint_interval: PositiveInt = Field(
        default=10_000,
        description="Number of steps between two checkpoints.",
        json_schema_extra=CHANGEABLE,
    )
    validation_interval: PositiveInt = Field(
        default=10_000,
        description="Number of steps between two evaluations.",
        json_schema_extra=CHANGEABLE,
    )
    max_to_keep: PositiveInt = Field(
        default=3,
        description="Number of recent checkpoints to keep.",
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_eval_metric: str | None = Field(
        default=None,
        description=(
            "Metric such as `t2i/recall_at_1` whose best checkpoint is also kept, or "
            "null."
        ),
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_metric_comp: Literal["higher", "lower"] = Field(
        default="higher",
        description="`higher` or `lower`, the better values of the metric.",
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_by_test: bool = Field(
        default=False,
        description=(
            "True to allow the selection of the best checkpoint on a split named "
            "`test`."
        ),
        json_schema_extra=CHANGEABLE,
    )
    loss_upper_bound: PositiveFloat | None = Field(
        default=1_000.0,
        description="Loss above which the run stops, or null.",
        json_schema_extra=CHANGEABLE,
    )
    seed: Seed = Field(
        default=0,
        description="Seed of the initial weights, dropout and the data.",
    )
    callbacks: tuple[TrackerName, ...] = Field(
        default=("tensorboard",),
        description=(
            "Trackers that record the metrics of the run. An empty list turns them off."
        ),
        json_schema_extra=CHANGEABLE,
    )
    optimizer_config: OptimizationConfig = OptimizationConfig()


class RuntimeConfig(Section):
    """Section `runtime`."""

    distribution_strategy: Literal[
        "default", "mirrored", "multi_worker_mirrored", "one_device", "tpu"
    ] = Field(
        default="default",
        description="Distribution strategy of TensorFlow. `default` uses one device.",
        json_schema_extra=CHANGEABLE,
    )
    num_replicas: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of logical CPU devices to create, to test a strategy on one "
            "machine. null uses the existing devices."
        ),
        json_schema_extra=CHANGEABLE,
    )
    mixed_precision_dtype: Literal["float32", "mixed_bfloat16", "mixed_float16"] = (
        Field(default="float32", description="Dtype policy of Keras.")
    )
    tpu: str | None = Field(
        default=None,
        description=(
            "Name of a TPU, its address such as `grpc://10.0.0.2:8470`, or `local`. "
            "null is `local` on a TPU VM, and else the environment variable TPU_NAME."
        ),
        json_schema_extra=CHANGEABLE,
    )


class FinetuneConfig(Section):
    """Section `finetune`, the fine-tuning of a trained model on `task.train_data`.

    The model replaces `task.model`, and the stages replace the steps, the intervals and
    the optimizer of `trainer`.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (projection
        first). Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"
        (interpolation).
    """

    model: str | None = Field(
        default=None,
        description=(
            "Trained model with Keras weights: `align_small_en`, the folder of a run "
            "or a preset, or `hf://user/model`. null trains `task.model`."
        ),
    )
    projection_epochs: NonNegativeInt = Field(
        default=30,
        description=(
            "Epochs of the first stage, which trains the projections on features that "
            "are computed once. 0 skips the stage."
        ),
    )
    projection_rate: PositiveFloat = Field(
        default=1e-3, description="Learning rate of the first stage."
    )
    blocks: PositiveInt = Field(
        default=2, description="Blocks of each encoder that the second stage trains."
    )
    blocks_epochs: NonNegativeInt = Field(
        default=8, description="Epochs of the second stage. 0 skips the stage."
    )
    blocks_rate: PositiveFloat = Field(
        default=2e-4, description="Learning rate of the second stage."
    )
    full_epochs: NonNegativeInt = Field(
        default=4,
        description=(
            "Epochs of the third stage, which trains all layers. 0 skips the stage."
        ),
    )
    full_rate: PositiveFloat = Field(
        default=5e-5, description="Learning rate of the third stage."
    )
    full_min_images: PositiveInt = Field(
        default=2_000,
        description="Number of training images from which the third stage runs.",
    )
    depth_decay: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Factor of the learning rate from a block to the block before it.",
    )
    patience: PositiveInt = Field(
        default=2,
        description=(
            "Number of epochs without a better validation recall after which a stage "
            "ends."
        ),
    )
    factors: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        description=(
            "Factors of the interpolation between the weights of the model, 0, and "
            "the fine-tuned weights, 1. The validation pairs choose one of them."
        ),
    )
    old_task: str | None = Field(
        default=None,
        description=(
            "Pairs on which the loss of former abilities is measured: a table, a "
            "folder, or a corpus such as `stamps`. null uses `stamps` if they are "
            "installed."
        ),
    )
    max_forgetting: NonNegativeFloat = Field(
        default=0.015,
        description=(
            "Maximum decrease of recall@10 on the validation part of `old_task`. "
            "Factors with a larger decrease aren't chosen."
        ),
    )


class ExperimentConfig(Section):
    """Configuration of a run with the sections of TF Model Garden.

    Example:
    >>> ExperimentConfig(trainer={"train_steps": 5_000}).trainer.train_steps
    5000
    """

    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    runtime: RuntimeConfig = RuntimeConfig()

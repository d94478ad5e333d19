"""Options of a run in the sections `task`, `trainer` and `runtime`.

The sections are those of TF Model Garden. The defaults are the recipe of Jia et al.
2021 (sections 4.1 and 5) for EfficientNet-B7 and BERT-base, the largest model of their
ablations. A one-of section has several members with their own options, and its `type`
selects one of them.
"""

import dataclasses
from typing import Any, Literal

from align_keras.config.fields import count_field, fraction_field, number_field

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


class _OneOf:
    """Section with several members, one of which is used.

    Attributes:
        type: Name of the member that is used.
    """

    type: Any

    def get(self) -> Any:
        """Returns the member that is used, or None if `type` is None."""
        return self.type and getattr(self, self.type)


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """EfficientNet image tower.

    Attributes:
        variant: Name of the EfficientNet.
        width_coefficient: Width coefficient, or None for that of the variant.
        depth_coefficient: Depth coefficient, or None for that of the variant.
        num_stages: Number of EfficientNet stages, counted from the first of seven.
        image_size: Side of the input in pixels.
        padding: Padding of convolutions with stride 2: `"tf"` as in the open-source
            EfficientNet, `"hugging_face"`, or None for the padding of the weights.
        num_classes: Number of classes of the classifier in the weights. The class
            probabilities are then appended to the features. None removes the
            classifier, as in the paper.
        drop_connect_rate: Drop-connect rate of the last block.
        batch_norm_momentum: Momentum of the moving batch statistics.
        batch_norm_epsilon: Constant that is added to the variances.
        synchronized: True to compute batch statistics over all replicas, and False to
            compute them per replica.
        virtual_batch_size: Number of rows of a replica with common batch statistics,
            or None for all rows.
        replicas_per_group: Number of replicas with common batch statistics, None for
            one replica, or 0 for the number that the open-source EfficientNet uses.
        freeze_batch_statistics: True to normalize by the moving statistics in training.
        rematerialize: True to save memory by computing activations again for the
            gradient.
        weights: Name or path of pretrained weights, as in
            `align_keras.models.load_image_weights`, or None for random weights.
        training: Weights that are trained: `"frozen"` for none, `"projection"`,
            `"last_blocks"` for the last `blocks` blocks and all layers after them,
            `"lora"` for low-rank factors, `"full"` for all, or None for `"projection"`
            if `locked` is true and `"full"` otherwise. Frozen layers run in inference
            mode.
        blocks: Number of blocks for `training: last_blocks`, or None for 2.
        rank: Rank of the factors for `training: lora`, or None for 8.
        locked: True to train only the projection. It is the same as `training:
            projection`.
        learning_rate_multiplier: Factor of the learning rate of all variables except
            the projection.

    References:
        Jia et al. 2021, section 5: 289 pixels.

    Example:

    >>> ImageEncoderConfig(variant="efficientnet_b3").image_size
    289
    """

    variant: ImageVariantName = "efficientnet_b7"
    width_coefficient: float | None = number_field(None, above=0)
    depth_coefficient: float | None = number_field(None, above=0)
    num_stages: int = number_field(7, at_least=1, at_most=7)
    image_size: int = count_field(289, at_least=32)
    padding: Literal["tf", "hugging_face"] | None = None
    num_classes: int | None = count_field(None, at_least=2)
    drop_connect_rate: float = fraction_field(0.2)
    batch_norm_momentum: float = fraction_field(0.99)
    batch_norm_epsilon: float = number_field(1e-3, above=0)
    synchronized: bool = False
    virtual_batch_size: int | None = count_field(None)
    replicas_per_group: int | None = count_field(None, at_least=0)
    freeze_batch_statistics: bool = False
    rematerialize: bool = False
    weights: str | None = None
    training: TrainingMode | None = None
    blocks: int | None = count_field(None)
    rank: int | None = count_field(None)
    locked: bool = False
    learning_rate_multiplier: float = number_field(1.0, above=0)

    @property
    def training_mode(self) -> TrainingMode:
        """Value of `training`, or the value that `locked` implies."""
        if self.training is not None:
            return self.training
        return "projection" if self.locked else "full"


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Text tower, which is a BERT or a related transformer.

    Attributes:
        variant: Name of the transformer.
        num_layers: Number of layers, or None for that of the variant.
        hidden_dim: Width of the layers, a multiple of `num_heads`, or None for that of
            the variant.
        num_heads: Number of attention heads, or None for that of the variant.
        intermediate_dim: Width of the feed-forward layers, or None for that of the
            variant.
        dropout: Dropout rate.
        vocabulary: Path of a vocabulary.txt, or None to learn a vocabulary from the
            captions.
        vocabulary_size: Number of WordPiece tokens to learn.
        normalization: Text normalization with which the vocabulary was learned.
        sequence_length: Number of tokens of a caption, including [CLS] and [SEP].
        max_sequence_length: Number of position embeddings, at least `sequence_length`,
            or None for `sequence_length`.
        activation: Exact or approximate GELU.
        pooling: `"cls"` as in the paper, or `"mean"`.
        rematerialize: True to save memory by computing activations again for the
            gradient.
        projection: True for a linear layer to `projection_dim`. False requires a
            `hidden_dim` that equals `projection_dim`.
        weights: Name or path of pretrained weights with their vocabulary, as in
            `align_keras.models.load_text_weights`, or None for random weights.
        training: Weights that are trained: `"frozen"` for none, `"projection"`,
            `"last_blocks"` for the last `blocks` blocks and all layers after them,
            `"lora"` for low-rank factors, `"full"` for all, or None for `"projection"`
            if `locked` is true and `"full"` otherwise. Frozen layers run in inference
            mode.
        blocks: Number of blocks for `training: last_blocks`, or None for 2.
        rank: Rank of the factors for `training: lora`, or None for 8.
        locked: True to train only the projection. It is the same as `training:
            projection`.
        learning_rate_multiplier: Factor of the learning rate of all variables except
            the projection.

    References:
        Jia et al. 2021, sections 4.1 (100k WordPiece tokens) and 5 (at most 64 tokens).

    Example:

    >>> TextEncoderConfig(variant="bert_mini").sequence_length
    64
    """

    variant: TextVariantName = "bert_base"
    num_layers: int | None = count_field(None)
    hidden_dim: int | None = count_field(None)
    num_heads: int | None = count_field(None)
    intermediate_dim: int | None = count_field(None)
    dropout: float = fraction_field(0.1)
    vocabulary: str | None = None
    vocabulary_size: int = count_field(100_000, at_least=10)
    normalization: Literal["bert_uncased", "bert_cased"] = "bert_uncased"
    sequence_length: int = count_field(64, at_least=3)
    max_sequence_length: int | None = count_field(None, at_least=3)
    activation: Literal["gelu_approximate", "gelu"] = "gelu_approximate"
    pooling: Literal["cls", "mean"] = "cls"
    rematerialize: bool = False
    projection: bool = True
    weights: str | None = None
    training: TrainingMode | None = None
    blocks: int | None = count_field(None)
    rank: int | None = count_field(None)
    locked: bool = False
    learning_rate_multiplier: float = number_field(1.0, above=0)

    @property
    def training_mode(self) -> TrainingMode:
        """Value of `training`, or the value that `locked` implies."""
        if self.training is not None:
            return self.training
        return "projection" if self.locked else "full"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Image tower, text tower, projections and temperature.

    Attributes:
        preset: Name of a preset such as `align_b3_mini`, or None. A preset determines
            the variants, `image_size`, `sequence_length` and `projection_dim`.
        projection_dim: Dimension of the embeddings of both towers.
        project_class_names: True to initialize the image projection with the text
            embeddings of the names of the 1,000 ImageNet classes. It requires
            `image_encoder.num_classes` of 1000, weights of both towers, and a text
            tower without projection.
        initial_temperature: Initial temperature, or None for that of the ALIGN in
            `image_encoder.weights`.
        learn_temperature: False to keep the initial temperature.

    References:
        Jia et al. 2021, sections 6.1 (B7's width of 640) and 5 (one learned
        temperature that starts at 1.0).

    Example:

    >>> ModelConfig(projection_dim=256).text_encoder.variant
    'bert_base'
    """

    preset: str | None = None
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    projection_dim: int = count_field(640)
    project_class_names: bool = False
    initial_temperature: float | None = number_field(1.0, above=0)
    learn_temperature: bool = True


@dataclasses.dataclass(frozen=True)
class ContrastiveLossConfig:
    """Contrastive loss of the paper.

    Attributes:
        label_smoothing: Fraction of the target probability that is distributed over
            all captions or images of the batch.
        reduction: `"sum"` or `"mean"` of the losses of the two directions.
        share_equal_captions: True to treat pairs with equal captions as positives of
            each other.
        share_equal_images: True to treat all captions of an image in a batch as
            positives of the image.
        negatives_fraction: Fraction of the in-batch negatives that each pair uses. It
            must be 1 divided by a whole number.
        tile_size: Number of rows and columns of the logits that are in memory at once,
            or 0 for the fastest method.
        matmul_dtype: `"bfloat16"` for matrix products in half precision, or None.

    References:
        Jia et al. 2021, sections 4.1 (the sum) and 5 (smoothing of 0.1), and
        table 8 (50% and 25% of the negatives).

    Example:

    >>> ContrastiveLossConfig(share_equal_captions=True).label_smoothing
    0.1
    """

    label_smoothing: float = fraction_field(0.1)
    reduction: Literal["sum", "mean"] = "sum"
    share_equal_captions: bool = False
    share_equal_images: bool = False
    negatives_fraction: float = number_field(1.0, above=0, at_most=1)
    tile_size: int = count_field(0, at_least=0)
    matmul_dtype: Literal["bfloat16"] | None = None


@dataclasses.dataclass(frozen=True)
class SigmoidLossConfig:
    """Sigmoid loss of SigLIP, which classifies each pair as matching or not.

    Attributes:
        bias: Constant that is added to the logits, or None for the negative logarithm
            of the number of captions in the batch. The paper learns the bias.
        share_equal_captions: True to treat pairs with equal captions as positives of
            each other.
        share_equal_images: True to treat all captions of an image in a batch as
            positives of the image.
        tile_size: Number of rows and columns of the logits that are in memory at once,
            or 0 for the fastest method.

    References:
        Zhai et al. 2023, section 3.2 (initial bias of -10 and temperature of 0.1).

    Example:

    >>> SigmoidLossConfig(bias=-10.0).share_equal_captions
    False
    """

    bias: float | None = number_field(None, at_most=0)
    share_equal_captions: bool = False
    share_equal_images: bool = False
    tile_size: int = count_field(0, at_least=0)


@dataclasses.dataclass(frozen=True)
class MatryoshkaConfig:
    """Loss at several widths of the embeddings.

    Attributes:
        widths: Numbers of first components of the embeddings at which the loss is
            computed in addition to all components. An empty list computes the loss of
            the complete embeddings only. Recall is measured at each width.
        weights: Weights of the losses of `widths` relative to the loss of the complete
            embeddings. An empty list is a weight of 1 for each width.

    References:
        Kusupati et al. 2022, section 3.

    Example:

    >>> MatryoshkaConfig(widths=(64, 128)).weights
    ()
    """

    widths: tuple[int, ...] = count_field(())
    weights: tuple[float, ...] = number_field((), above=0)


@dataclasses.dataclass(frozen=True)
class LossConfig(_OneOf):
    """Choice of the loss. Each member has a class in `align_keras.losses`.

    Attributes:
        type: Name of the member that is used.
        matryoshka: Widths of the embeddings at which the loss is computed.

    Example:

    >>> LossConfig(type="sigmoid").get().bias is None
    True
    """

    type: Literal["contrastive", "sigmoid"] = "contrastive"
    contrastive: ContrastiveLossConfig = ContrastiveLossConfig()
    sigmoid: SigmoidLossConfig = SigmoidLossConfig()
    matryoshka: MatryoshkaConfig = MatryoshkaConfig()


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Item of the list `task.distillation.teacher`.

    Attributes:
        model: Name or folder of the teacher, as in `align_keras.load_model`.
        weight: Weight of its similarities, relative to the weights of the other
            teachers.

    Example:

    >>> TeacherConfig("align_small_en").weight
    1.0
    """

    model: str
    weight: float = number_field(1.0, above=0)


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Distillation of trained models, the teachers.

    The losses are those of `align_keras.losses.DistillationLoss`.

    Attributes:
        teacher: Name or folder of the teacher, as in `align_keras.load_model`, a list
            of several teachers, or None to train without a teacher. The similarity of
            an image and a caption is the weighted mean of those of all teachers.
        embedding_weight: Weight of the squared distance between the embeddings and
            those of the teacher. A weight above 0 requires a `projection_dim` that
            equals the width of the teacher's embeddings. It must be 0 for several
            teachers.
        similarity_weight: Weight of the divergence of the similarities in a batch from
            those of the teacher.
        contrastive_weight: Weight of the loss in `task.loss`. With 0, the model learns
            only from the teacher.
        temperature: Temperature of the similarities of the model and of the teacher.

    References:
        Hinton et al. 2015. Wu et al. 2023, section 3.1.

    Example:

    >>> DistillationConfig((TeacherConfig("align_small_en"),)).contrastive_weight
    1.0
    """

    teacher: tuple[TeacherConfig, ...] | None = None
    embedding_weight: float = number_field(1.0, at_least=0)
    similarity_weight: float = number_field(1.0, at_least=0)
    contrastive_weight: float = number_field(1.0, at_least=0)
    temperature: float = number_field(0.05, above=0)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Item of the list `task.train_data.source`.

    Attributes:
        path: File, folder, pattern or address.
        weight: Share of the pairs from this source, relative to the weights of the
            other sources. If all weights are None, the weights are the numbers of
            images of the sources.

    Example:

    >>> SourceConfig("cc3m/*.tar", weight=2.0).weight
    2.0
    """

    path: str
    weight: float | None = number_field(None, above=0)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Pairs of images and captions, and their batches.

    Attributes:
        corpus: `icons`, `stamps`, a folder of `tools/make_drawings.py`, several of
            these joined by `+`, `pairs`, or the path of a data set that TFDS prepared,
            such as the output of `align-keras corpus`. An experiment must set it.
        corpus_repeats: Number of times that an epoch contains the pairs of a corpus in
            a mixture, such as `{icons: 2}`, or None for once each. It is allowed in
            `train_data` only.
        source: Shards to read instead of a corpus: a path, or a list of `path` and
            `weight`, as in `align_keras.datasets.open_sources`. It is allowed in
            `train_data` only.
        tfds_split: Split of the prepared data, such as `train[:90%]`, or `all`.
        split_by: How the corpus `pairs` is divided. `image` makes the splits `train`
            and `test`, which share no image. `image_and_caption` makes the splits
            `train`, `validation` and `test`, which share neither an image nor a
            caption.
        tfds_data_dir: Folder of the prepared data, or None for the default of TFDS.
        pairs: Table or folder of the corpus `pairs`.
        image_column: Column of the images in the table or the sources, or None to
            detect it.
        caption_column: Column of the captions in the table or the sources, or None to
            detect it.
        caption_sources: Probability of each source of captions, such as `{alt: 0.7,
            synthetic: 0.3}`, or None to draw all captions of an image with equal
            probability. The sources are columns of captions in the table, or values of
            its column `source`. In the shards of `source` they are columns, keys of the
            `.json` members of a tar, or features of TFRecord files. The probabilities
            are divided by the sum over the sources that an image has.
        where: Condition on the scores of `align-keras corpus score`, such as
            `similarity > 0.2 and detected_language = 'en'`, or None for all pairs. It
            requires that `corpus`, or each `source`, is a corpus that `align-keras
            corpus` built.
        encoding: Text encoding of the table and of caption files.
        max_bad_fraction: Maximum fraction of unusable pairs.
        global_batch_size: Number of pairs per step over all replicas.
        micro_batch_size: Number of pairs that a replica embeds at a time, or None for
            the whole batch.
        shuffle_buffer_size: Number of pairs in the shuffle buffer.
        pair_weighted: True to use every caption of an image once per epoch, as in the
            paper. False uses every image once per epoch with a random caption.
        cache: True to keep decoded images in memory.
        data_service: Address of the dispatcher of a tf.data service, such as
            `grpc://host:5000`, or None. The order of its batches is not deterministic.
        seed: Seed of shuffling and augmentation, or None for that of the trainer.
        random_crop: True for a random crop, and False for a central crop.
        resize_before_crop: True to resize the whole image before a random crop, as the
            paper does. It is slower. `align_keras.images.crop_image_bytes` lists the
            differences.
        random_flip: True to flip half of the images horizontally.
        random_zoom: Each side of a crop is scaled by a random factor between
            exp(-random_zoom) and exp(random_zoom).
        random_shift: Maximum shift of a crop as a fraction of its side.
        random_recolor: Fraction of the images with random colors and polarity, for
            drawings.

    References:
        Jia et al. 2021, section 5: batches of 16384, random crop and flip.

    Example:

    >>> DataConfig(corpus="pairs", pairs="pairs.csv").global_batch_size
    16384
    """

    corpus: str | None = None
    corpus_repeats: dict[str, float] | None = number_field(None, above=0)
    source: tuple[SourceConfig, ...] | None = None
    tfds_split: str = "train"
    split_by: Literal["image", "image_and_caption"] = "image"
    tfds_data_dir: str | None = None
    pairs: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    caption_sources: dict[str, float] | None = number_field(None, above=0)
    where: str | None = None
    encoding: str = "utf-8"
    max_bad_fraction: float = number_field(0.1, at_least=0, at_most=1)
    global_batch_size: int = count_field(16_384)
    micro_batch_size: int | None = count_field(None)
    shuffle_buffer_size: int = count_field(20_000)
    pair_weighted: bool = False
    cache: bool = False
    data_service: str | None = None
    seed: int | None = count_field(None, at_least=0)
    random_crop: bool = True
    resize_before_crop: bool = False
    random_flip: bool = True
    random_zoom: float = number_field(0.0, at_least=0)
    random_shift: float = number_field(0.0, at_least=0)
    random_recolor: float = number_field(0.0, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Metrics of a run.

    Attributes:
        ks: Values of k for Recall@k in increasing order.

    References:
        Jia et al. 2021, table 1.

    Example:

    >>> EvaluationConfig(ks=(1, 100)).ks
    (1, 100)
    """

    ks: tuple[int, ...] = count_field((1, 5, 10))


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`. Validation uses all pairs without augmentation.

    Example:

    >>> TaskConfig().validation_data.random_crop
    False
    """

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()
    train_data: DataConfig = DataConfig()
    validation_data: DataConfig = DataConfig(
        tfds_split="test",
        global_batch_size=256,
        random_crop=False,
        random_flip=False,
    )
    evaluation: EvaluationConfig = EvaluationConfig()


# LAMB usually excludes biases and normalization parameters. The temperature is excluded
# too, because it would change by the relative learning rate at every step.
_EXCLUDED = ("bias", "gamma", "beta", "temperature")


@dataclasses.dataclass(frozen=True)
class _OptimizerOptions:
    """Options of all optimizers.

    Attributes:
        weight_decay: Weight decay. It is decoupled from the gradient, except in SGD,
            where it is the weight of an L2 penalty.
        exclude_from_weight_decay: Regular expressions of the paths of variables
            without weight decay and trust ratio.
        global_clipnorm: Maximum global norm of the gradients, or None.
    """

    weight_decay: float = number_field(1e-5, at_least=0)
    exclude_from_weight_decay: tuple[str, ...] = _EXCLUDED
    global_clipnorm: float | None = number_field(None, above=0)


@dataclasses.dataclass(frozen=True)
class AdamWConfig(_OptimizerOptions):
    """AdamW, which is Adam with decoupled weight decay.

    Attributes:
        beta_1: Decay rate of the moving average of the gradient.
        beta_2: Decay rate of the moving average of the squared gradient.
        epsilon: Constant that is added to the denominator of the update.

    Example:

    >>> AdamWConfig(beta_2=0.98).weight_decay
    1e-05
    """

    beta_1: float = fraction_field(0.9)
    beta_2: float = fraction_field(0.999)
    epsilon: float = number_field(1e-7, above=0)


@dataclasses.dataclass(frozen=True)
class LambConfig(AdamWConfig):
    """LAMB, the paper's optimizer.

    References:
        Jia et al. 2021, section 5 (weight decay of 1e-5). You et al. 2020 for the other
        options, which Jia et al. don't state.

    Example:

    >>> LambConfig(weight_decay=1e-4).epsilon
    1e-06
    """

    epsilon: float = number_field(1e-6, above=0)


@dataclasses.dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon, which orthogonalizes the momentum of matrices.

    Other variables use AdamW.

    Attributes:
        momentum: Momentum of matrices.

    References:
        Jordan et al. 2024. Liu et al. 2025, arXiv:2502.16982.

    Example:

    >>> MuonConfig(weight_decay=0.1).momentum
    0.95
    """

    momentum: float = fraction_field(0.95)


@dataclasses.dataclass(frozen=True)
class SGDConfig(_OptimizerOptions):
    """SGD with momentum.

    Attributes:
        momentum: Momentum of the update.
        nesterov: True for Nesterov momentum.

    References:
        Jia et al. 2021, section 5.3 (momentum of 0.9 for fine-tuning on ImageNet).

    Example:

    >>> SGDConfig(nesterov=True).momentum
    0.9
    """

    weight_decay: float = number_field(0.0, at_least=0)
    momentum: float = fraction_field(0.9)
    nesterov: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(_OneOf):
    """Choice of the optimizer.

    Example:

    >>> OptimizerConfig(type="muon").get().momentum
    0.95
    """

    type: Literal["lamb", "adamw", "muon", "sgd"] = "lamb"
    lamb: LambConfig = LambConfig()
    adamw: AdamWConfig = AdamWConfig()
    muon: MuonConfig = MuonConfig()
    sgd: SGDConfig = SGDConfig()


@dataclasses.dataclass(frozen=True)
class LinearDecayConfig:
    """Linear decay of the learning rate.

    Attributes:
        initial_learning_rate: Learning rate after the warm-up.
        end_learning_rate: Learning rate at the end of the decay.
        decay_steps: Number of steps of the decay, or None for all steps after the
            warm-up.

    References:
        Jia et al. 2021, section 5 (decay from 1e-3 to zero).

    Example:

    >>> LinearDecayConfig(initial_learning_rate=5e-4).end_learning_rate
    0.0
    """

    initial_learning_rate: float = number_field(1e-3, above=0)
    end_learning_rate: float = number_field(0.0, at_least=0)
    decay_steps: int | None = count_field(None)


@dataclasses.dataclass(frozen=True)
class CosineDecayConfig:
    """Cosine decay of the learning rate.

    Attributes:
        initial_learning_rate: Learning rate after the warm-up.
        alpha: Learning rate at the end of the decay as a fraction of the initial one.
        decay_steps: Number of steps of the decay, or None for all steps after the
            warm-up.

    Example:

    >>> CosineDecayConfig(decay_steps=10_000).initial_learning_rate
    0.001
    """

    initial_learning_rate: float = number_field(1e-3, above=0)
    alpha: float = number_field(0.0, at_least=0, at_most=1)
    decay_steps: int | None = count_field(None)


@dataclasses.dataclass(frozen=True)
class StepwiseConfig:
    """Piecewise constant learning rate.

    Attributes:
        boundaries: Numbers of steps after the warm-up at which the learning rate
            changes, in increasing order.
        values: Learning rates before, between and after the boundaries.

    Example:

    >>> StepwiseConfig(boundaries=(500,), values=(1e-2, 1e-3)).values
    (0.01, 0.001)
    """

    boundaries: tuple[int, ...] = count_field((100_000,))
    values: tuple[float, ...] = number_field((1e-3, 1e-4), above=0)


@dataclasses.dataclass(frozen=True)
class ConstantConfig:
    """Constant learning rate.

    Attributes:
        learning_rate: Learning rate of all steps after the warm-up.

    Example:

    >>> ConstantConfig(learning_rate=3e-4).learning_rate
    0.0003
    """

    learning_rate: float = number_field(1e-3, above=0)


@dataclasses.dataclass(frozen=True)
class LearningRateConfig(_OneOf):
    """Choice of the learning-rate schedule.

    Example:

    >>> LearningRateConfig(type="constant").get()
    ConstantConfig(learning_rate=0.001)
    """

    type: Literal["linear", "cosine", "stepwise", "constant"] = "linear"
    linear: LinearDecayConfig = LinearDecayConfig()
    cosine: CosineDecayConfig = CosineDecayConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    constant: ConstantConfig = ConstantConfig()


@dataclasses.dataclass(frozen=True)
class LinearWarmupConfig:
    """Linear warm-up of the learning rate.

    Attributes:
        warmup_steps: Number of steps of the warm-up, or 0 for no warm-up.
        warmup_learning_rate: Learning rate at the first step.

    References:
        Jia et al. 2021, section 5 (from zero in 10k steps).

    Example:

    >>> LinearWarmupConfig(warmup_steps=500).warmup_learning_rate
    0.0
    """

    warmup_steps: int = count_field(10_000, at_least=0)
    warmup_learning_rate: float = number_field(0.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class WarmupConfig(_OneOf):
    """Choice of the warm-up.

    Attributes:
        type: Name of the member that is used, or None for no warm-up.

    Example:

    >>> WarmupConfig(type=None).get() is None
    True
    """

    type: Literal["linear"] | None = "linear"
    linear: LinearWarmupConfig = LinearWarmupConfig()


@dataclasses.dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of the weights for evaluation and the final model.

    Attributes:
        average_decay: Decay rate of the average, or None for no average.

    Example:

    >>> EMAConfig(average_decay=0.999).average_decay
    0.999
    """

    average_decay: float | None = fraction_field(None)


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """Optimizer, learning rate, warm-up and moving average of the weights.

    Example:

    >>> OptimizationConfig(ema=EMAConfig(0.999)).optimizer.type
    'lamb'
    """

    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    warmup: WarmupConfig = WarmupConfig()
    ema: EMAConfig = EMAConfig()


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """Section `trainer`. Intervals are numbers of steps, multiples of `steps_per_loop`.

    Attributes:
        train_steps: Number of steps of the run.
        steps_per_loop: Number of steps between two log lines. The logged loss is the
            mean over these steps.
        checkpoint_interval: Number of steps between two checkpoints.
        validation_interval: Number of steps between two evaluations.
        max_to_keep: Number of recent checkpoints to keep.
        best_checkpoint_eval_metric: Metric such as `t2i/recall_at_1` whose best
            checkpoint is also kept, or None.
        best_checkpoint_metric_comp: `"higher"` or `"lower"`, the better values of the
            metric.
        best_checkpoint_by_test: True to allow the selection of the best checkpoint on
            a split named `test`.
        loss_upper_bound: Loss above which the run stops, or None.
        seed: Seed of the initial weights, dropout and the data.
        callbacks: Trackers that record the metrics of the run. An empty list turns
            them off.

    References:
        Jia et al. 2021, section 5 (1.2M steps).

    Example:

    >>> TrainerConfig(train_steps=5_000).checkpoint_interval
    10000
    """

    train_steps: int = count_field(1_200_000)
    steps_per_loop: int = count_field(1_000)
    checkpoint_interval: int = count_field(10_000)
    validation_interval: int = count_field(10_000)
    max_to_keep: int = count_field(3)
    best_checkpoint_eval_metric: str | None = None
    best_checkpoint_metric_comp: Literal["higher", "lower"] = "higher"
    best_checkpoint_by_test: bool = False
    loss_upper_bound: float | None = number_field(1_000.0, above=0)
    seed: int = number_field(0, at_least=0, at_most=2**32 - 1)
    callbacks: tuple[TrackerName, ...] = ("tensorboard",)
    optimizer_config: OptimizationConfig = OptimizationConfig()


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Section `runtime`.

    Attributes:
        distribution_strategy: Distribution strategy of TensorFlow. `default` uses one
            device.
        num_replicas: Number of logical CPU devices to create, to test a strategy on one
            machine. None uses the existing devices.
        mixed_precision_dtype: Dtype policy of Keras.
        tpu: Name of a TPU, its address such as `grpc://10.0.0.2:8470`, or `local`. None
            is `local` on a TPU VM, and else the environment variable TPU_NAME.

    Example:

    >>> RuntimeConfig(mixed_precision_dtype="mixed_bfloat16").num_replicas is None
    True
    """

    distribution_strategy: Literal[
        "default", "mirrored", "multi_worker_mirrored", "one_device", "tpu"
    ] = "default"
    num_replicas: int | None = count_field(None)
    mixed_precision_dtype: Literal["float32", "mixed_bfloat16", "mixed_float16"] = (
        "float32"
    )
    tpu: str | None = None


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Section `finetune`, the fine-tuning of a trained model on `task.train_data`.

    The model replaces `task.model`, and the stages replace the steps, the intervals and
    the optimizer of `trainer`.

    Attributes:
        model: Trained model with Keras weights: `align_small_en`, the folder of a run
            or a preset, or `hf://user/model`. None trains `task.model`.
        projection_epochs: Epochs of the first stage, which trains the projections on
            features that are computed once. 0 skips the stage.
        projection_rate: Learning rate of the first stage.
        blocks: Blocks of each encoder that the second stage trains.
        blocks_epochs: Epochs of the second stage. 0 skips the stage.
        blocks_rate: Learning rate of the second stage.
        full_epochs: Epochs of the third stage, which trains all layers. 0 skips the
            stage.
        full_rate: Learning rate of the third stage.
        full_min_images: Number of training images from which the third stage runs.
        depth_decay: Factor of the learning rate from a block to the block before it.
        patience: Number of epochs without a better validation recall after which a
            stage ends.
        factors: Factors of the interpolation between the weights of the model, 0, and
            the fine-tuned weights, 1. The validation pairs choose one of them.
        old_task: Pairs on which the loss of former abilities is measured: a table, a
            folder, or a corpus such as `stamps`. None uses `stamps` if they are
            installed.
        max_forgetting: Maximum decrease of recall@10 on the validation part of
            `old_task`. Factors with a larger decrease aren't chosen.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (projection
        first). Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"
        (interpolation).

    Example:

    >>> FinetuneConfig(model="align_small_en").factors[-1]
    1.0
    """

    model: str | None = None
    projection_epochs: int = count_field(30, at_least=0)
    projection_rate: float = number_field(1e-3, above=0)
    blocks: int = count_field(2)
    blocks_epochs: int = count_field(8, at_least=0)
    blocks_rate: float = number_field(2e-4, above=0)
    full_epochs: int = count_field(4, at_least=0)
    full_rate: float = number_field(5e-5, above=0)
    full_min_images: int = count_field(2_000)
    depth_decay: float = number_field(0.7, above=0, at_most=1)
    patience: int = count_field(2)
    factors: tuple[float, ...] = number_field(
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), at_least=0, at_most=1
    )
    old_task: str | None = None
    max_forgetting: float = number_field(0.015, at_least=0)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Configuration of a run with the sections of TF Model Garden.

    Attributes:
        task: `TaskConfig` with the model, the loss, the data and the metrics.
        trainer: `TrainerConfig` with the steps, the intervals and the optimizer.
        finetune: `FinetuneConfig` with the model to fine-tune and the stages.
        runtime: `RuntimeConfig` with the devices and the precision.

    Example:
    >>> config = ExperimentConfig()
    >>> config.trainer.optimizer_config.optimizer.get().weight_decay
    1e-05
    """

    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    runtime: RuntimeConfig = RuntimeConfig()

"""The options of a run: `task`, `trainer` and `runtime`, as Model Garden divides them.

The defaults are the recipe of Jia et al. 2021 (sections 4.1 and 5) for EfficientNet-B7
+ BERT-base, the largest model whose ablations they report. One-of configs nest as in
Model Garden: `type` names the member that counts, and each member keeps its options.
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


class _OneOf:
    """A section of which only the member that `type` names counts.

    Attributes:
        type: the one that counts.
    """

    type: Any

    def get(self) -> Any:
        """The config that `type` names, or None where it names none."""
        return self.type and getattr(self, self.type)


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """The image tower: a named EfficientNet, its coefficients overridable.

    Attributes:
        variant: the named size.
        width_coefficient: None for the variant's.
        depth_coefficient: None for the variant's.
        num_stages: how many of EfficientNet's seven stages there are.
        image_size: side of the input in pixels.
        padding: `"tf"`, the open-source EfficientNet's, or `"hugging_face"`; None for
            that of the weights.
        num_classes: of the weights' classifier, to keep its class probabilities beside
            the features; None for the paper's tower.
        drop_connect_rate: of the last block.
        batch_norm_momentum: share of the moving statistics that a step keeps.
        batch_norm_epsilon: what is added to variances.
        synchronized: batch statistics over all replicas; otherwise of each by itself.
        virtual_batch_size: rows of a replica normalized together; None for all.
        replicas_per_group: replicas whose rows are normalized together, or None for
            each by itself; 0 for as many as the open-source EfficientNet takes.
        freeze_batch_statistics: normalize by the moving statistics.
        rematerialize: compute activations twice rather than keep them.
        weights: where the tower's weights start: a name or a path as
            `align_keras.models.load_image_weights` takes; None for random ones.
        locked: only the projection learns.
        learning_rate_multiplier: of all but the projection.

    References:
        Jia et al. 2021, section 5: 289 pixels.
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
    locked: bool = False
    learning_rate_multiplier: float = number_field(1.0, above=0)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """The text tower: a named BERT or kin of it, its sizes overridable.

    Attributes:
        variant: the named size.
        num_layers: None for the variant's.
        hidden_dim: a multiple of `num_heads`, or None for the variant's.
        num_heads: None for the variant's.
        intermediate_dim: None for the variant's.
        dropout: share of the activations.
        vocabulary: path of a vocabulary.txt; None to learn one from the captions.
        vocabulary_size: WordPiece tokens to learn.
        normalization: the one that the vocabulary was learned with.
        sequence_length: tokens a caption, [CLS] and [SEP] included.
        max_sequence_length: at least `sequence_length`, or None for the same.
        activation: exact GELU or the approximate one.
        pooling: `"cls"`, the paper's, or `"mean"`.
        rematerialize: compute activations twice rather than keep them.
        projection: a linear layer to `projection_dim`; False where `hidden_dim` is it.
        weights: where the tower's weights and its vocabulary start: a name or a path
            as `align_keras.models.load_text_weights` takes; None for random ones.
        locked: only the projection learns.
        learning_rate_multiplier: of all but the projection.

    References:
        Jia et al. 2021, sections 4.1 (100k WordPiece tokens) and 5 (at most 64 tokens).
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
    locked: bool = False
    learning_rate_multiplier: float = number_field(1.0, above=0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Both towers and what joins them.

    Attributes:
        preset: a preset's name, such as `align_b3_mini`, in place of the variants,
            `image_size`, `sequence_length` and `projection_dim` below; or None.
        projection_dim: width of both embeddings.
        project_class_names: start the image projection where the text tower puts the
            names of ImageNet's 1,000 classes; needs `image_encoder.num_classes` of
            1000, weights of both towers, and a text tower without projection.
        initial_temperature: None for that of the ALIGN of `image_encoder.weights`.
        learn_temperature: false keeps the initial one.

    References:
        Jia et al. 2021, sections 4.1 (B7's width of 640) and 5 (one learned
        temperature that starts at 1.0).
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
    """The paper's loss.

    Attributes:
        label_smoothing: share of the target that goes to the negatives.
        reduction: `"sum"` or `"mean"` of the two directions.
        share_equal_captions: pairs of one caption count as each other's positives.
        negatives_fraction: one over a whole number: the share of the in-batch
            negatives that each pair is contrasted with.
        tile_size: rows and columns of the logits in memory at once; 0 for the fastest.
        matmul_dtype: `"bfloat16"` for matrix products in half precision, or None.

    References:
        Jia et al. 2021, sections 4.1 (the sum) and 5 (smoothing of 0.1), and
        table 8 (50% and 25% of the negatives).
    """

    label_smoothing: float = fraction_field(0.1)
    reduction: Literal["sum", "mean"] = "sum"
    share_equal_captions: bool = False
    negatives_fraction: float = number_field(1.0, above=0, at_most=1)
    tile_size: int = count_field(0, at_least=0)
    matmul_dtype: Literal["bfloat16"] | None = None


@dataclasses.dataclass(frozen=True)
class SigmoidLossConfig:
    """SigLIP's loss, which judges each pair by itself.

    Attributes:
        bias: what is added to the logits; None for -log of the batch's captions.
        share_equal_captions: images of a batch match the captions that equal theirs.

    References:
        Zhai et al. 2023, section 3.2 (at first a learned bias of -10, a temperature of
        0.1).
    """

    bias: float | None = number_field(None, at_most=0)
    share_equal_captions: bool = False


@dataclasses.dataclass(frozen=True)
class LossConfig(_OneOf):
    """One of the losses; what `type` names has a class in `align_keras.losses`."""

    type: Literal["contrastive", "sigmoid"] = "contrastive"
    contrastive: ContrastiveLossConfig = ContrastiveLossConfig()
    sigmoid: SigmoidLossConfig = SigmoidLossConfig()


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """A source of `task.train_data.source`.

    Attributes:
        path: file, folder, pattern or address.
        weight: share of what is read; None, for all, where numbers of images count.
    """

    path: str
    weight: float | None = number_field(None, above=0)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A corpus and how batches are made of it.

    Attributes:
        corpus: `icons`, `stamps`, `clipart`, `emoji`, several of these joined by `+`,
            `pairs`, or the path of a data set that TFDS prepared, such as
            `align-keras corpus` writes; None until an experiment names one.
        source: shards that training reads as they are, in place of a corpus: a path, or
            a list of `path` and `weight`, as `align_keras.data.open_sources` takes
            them. In `train_data` alone.
        tfds_split: of the prepared data, such as `train[:90%]`, or `all`.
        tfds_data_dir: where prepared data lies, or None for TFDS's place.
        pairs: table or folder of the corpus `pairs`.
        image_column: the table's or the sources' column of images, None to guess.
        caption_column: the same of captions.
        encoding: of the table and of caption files.
        max_bad_fraction: unusable pairs that are tolerated.
        global_batch_size: pairs a step over all replicas.
        micro_batch_size: pairs that a replica embeds at a time, or None for all.
        shuffle_buffer_size: pairs to draw from.
        pair_weighted: each caption of an image is a pair of an epoch, as in the paper;
            otherwise an image comes once an epoch, with one caption at random.
        cache: keep decoded images in memory.
        data_service: address of a tf.data service's dispatcher, such as
            `grpc://host:5000`, whose workers make batches in any order; or None.
        seed: of shuffling and augmentation, or None for the trainer's.
        random_crop: crop at a random place, else in the center.
        random_flip: mirror half of the images.
        random_zoom: how far the scale of a crop's sides varies.
        random_shift: how far a crop moves, as a share of its side.
        random_recolor: share of images in random colors and polarity, for drawings.

    References:
        Jia et al. 2021, section 5: batches of 16384, random crop and flip.
    """

    corpus: str | None = None
    source: tuple[SourceConfig, ...] | None = None
    tfds_split: str = "train"
    tfds_data_dir: str | None = None
    pairs: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
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
    random_flip: bool = True
    random_zoom: float = number_field(0.0, at_least=0)
    random_shift: float = number_field(0.0, at_least=0)
    random_recolor: float = number_field(0.0, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Metrics of a run.

    Attributes:
        ks: increasing, the k of recall at k.

    References:
        Jia et al. 2021, table 1.
    """

    ks: tuple[int, ...] = count_field((1, 5, 10))


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The `task` section; in validation nothing is varied or left out."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train_data: DataConfig = DataConfig()
    validation_data: DataConfig = DataConfig(
        tfds_split="test",
        global_batch_size=256,
        random_crop=False,
        random_flip=False,
    )
    evaluation: EvaluationConfig = EvaluationConfig()


# Biases and normalization parameters, by the usual practice of LAMB, and the
# temperature, which would otherwise move by ±lr relative at every step.
_EXCLUDED = ("bias", "gamma", "beta", "temperature")


@dataclasses.dataclass(frozen=True)
class _OptimizerOptions:
    """Options of all optimizers.

    Attributes:
        weight_decay: of SGD, of an L2 penalty.
        exclude_from_weight_decay: patterns of variables without it and trust ratio.
        global_clipnorm: bound of the norm of all gradients together, or None.
    """

    weight_decay: float = number_field(1e-5, at_least=0)
    exclude_from_weight_decay: tuple[str, ...] = _EXCLUDED
    global_clipnorm: float | None = number_field(None, above=0)


@dataclasses.dataclass(frozen=True)
class AdamWConfig(_OptimizerOptions):
    """AdamW: Adam with decoupled weight decay.

    Attributes:
        beta_1: share of the mean gradient that a step keeps.
        beta_2: the same of the mean squared gradient.
        epsilon: what is added to the root of that.
    """

    beta_1: float = fraction_field(0.9)
    beta_2: float = fraction_field(0.999)
    epsilon: float = number_field(1e-7, above=0)


@dataclasses.dataclass(frozen=True)
class LambConfig(AdamWConfig):
    """LAMB, the paper's optimizer.

    References:
        Jia et al. 2021, section 5: weight decay 1e-5; the rest isn't stated
        and is You et al. 2020's.
    """

    epsilon: float = number_field(1e-6, above=0)


@dataclasses.dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon: the momentum of a matrix made orthogonal, AdamW for other weights.

    Attributes:
        momentum: share of a matrix's momentum that a step keeps.

    References:
        Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982.
    """

    momentum: float = fraction_field(0.95)


@dataclasses.dataclass(frozen=True)
class SGDConfig(_OptimizerOptions):
    """SGD with momentum.

    Attributes:
        momentum: share of the last update that the next one keeps.
        nesterov: look ahead along the momentum.

    References:
        Jia et al. 2021, section 5.3: momentum 0.9 in fine-tuning on ImageNet.
    """

    weight_decay: float = number_field(0.0, at_least=0)
    momentum: float = fraction_field(0.9)
    nesterov: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(_OneOf):
    """One of the optimizers."""

    type: Literal["lamb", "adamw", "muon", "sgd"] = "lamb"
    lamb: LambConfig = LambConfig()
    adamw: AdamWConfig = AdamWConfig()
    muon: MuonConfig = MuonConfig()
    sgd: SGDConfig = SGDConfig()


@dataclasses.dataclass(frozen=True)
class LinearDecayConfig:
    """Linear decay.

    Attributes:
        initial_learning_rate: the peak.
        end_learning_rate: where it ends.
        decay_steps: None for all steps after the warm-up.

    References:
        Jia et al. 2021, section 5: from 1e-3 to zero.
    """

    initial_learning_rate: float = number_field(1e-3, above=0)
    end_learning_rate: float = number_field(0.0, at_least=0)
    decay_steps: int | None = count_field(None)


@dataclasses.dataclass(frozen=True)
class CosineDecayConfig:
    """Cosine decay.

    Attributes:
        initial_learning_rate: the peak.
        alpha: the end as a fraction of the peak.
        decay_steps: None for all steps after the warm-up.
    """

    initial_learning_rate: float = number_field(1e-3, above=0)
    alpha: float = number_field(0.0, at_least=0, at_most=1)
    decay_steps: int | None = count_field(None)


@dataclasses.dataclass(frozen=True)
class StepwiseConfig:
    """A constant learning rate up to each boundary, then the next one.

    Attributes:
        boundaries: increasing, steps after the warm-up.
        values: one more than boundaries.
    """

    boundaries: tuple[int, ...] = count_field((100_000,))
    values: tuple[float, ...] = number_field((1e-3, 1e-4), above=0)


@dataclasses.dataclass(frozen=True)
class ConstantConfig:
    """A constant learning rate.

    Attributes:
        learning_rate: of all steps after the warm-up.
    """

    learning_rate: float = number_field(1e-3, above=0)


@dataclasses.dataclass(frozen=True)
class LearningRateConfig(_OneOf):
    """One of the learning-rate schedules."""

    type: Literal["linear", "cosine", "stepwise", "constant"] = "linear"
    linear: LinearDecayConfig = LinearDecayConfig()
    cosine: CosineDecayConfig = CosineDecayConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    constant: ConstantConfig = ConstantConfig()


@dataclasses.dataclass(frozen=True)
class LinearWarmupConfig:
    """Linear warm-up.

    Attributes:
        warmup_steps: 0 for none.
        warmup_learning_rate: where it starts.

    References:
        Jia et al. 2021, section 5: from zero in 10k steps.
    """

    warmup_steps: int = count_field(10_000, at_least=0)
    warmup_learning_rate: float = number_field(0.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class WarmupConfig(_OneOf):
    """One of the warm-ups, or none.

    Attributes:
        type: None for no warm-up.
    """

    type: Literal["linear"] | None = "linear"
    linear: LinearWarmupConfig = LinearWarmupConfig()


@dataclasses.dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of the weights, used to evaluate and at the end.

    Attributes:
        average_decay: None for no average.
    """

    average_decay: float | None = fraction_field(None)


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """Optimizer, learning rate, warm-up and average of the weights."""

    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    warmup: WarmupConfig = WarmupConfig()
    ema: EMAConfig = EMAConfig()


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The `trainer` section; all intervals are in steps, multiples of `steps_per_loop`.

    Attributes:
        train_steps: steps of the run.
        steps_per_loop: steps whose losses are averaged and logged.
        checkpoint_interval: steps from one checkpoint to the next.
        validation_interval: steps from one evaluation to the next.
        max_to_keep: checkpoints kept.
        best_checkpoint_eval_metric: a metric, such as `t2i/recall_at_1`, whose best
            checkpoint is kept too, or None.
        best_checkpoint_metric_comp: what is better.
        best_checkpoint_by_test: let it be chosen on pairs named `test`.
        loss_upper_bound: a loss that stops the run, or None.
        seed: of the initial weights, dropout and the data.

    References:
        Jia et al. 2021, section 5: 1.2M steps.
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
    seed: int = count_field(0, at_least=0)
    optimizer_config: OptimizationConfig = OptimizationConfig()


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """The `runtime` section.

    Attributes:
        distribution_strategy: how replicas work together; `default` is one device.
        num_replicas: logical CPU devices to make, to try a strategy on one machine;
            None takes the devices that are there.
        mixed_precision_dtype: Keras's dtype policy.
        tpu: a TPU's name, or its address, such as `grpc://10.0.0.2:8470`; `local`,
            which None is on a TPU VM. Elsewhere None is the environment's TPU_NAME.
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
class ExperimentConfig:
    """Task, trainer and runtime, as TF Model Garden divides them.

    Attributes:
        task: `TaskConfig`, what is learned, from what, and how it is judged.
        trainer: `TrainerConfig`, steps, intervals, optimizer.
        runtime: `RuntimeConfig`, devices and precision.

    Example:
    >>> config = ExperimentConfig()
    >>> config.trainer.optimizer_config.optimizer.get().weight_decay
    1e-05
    """

    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()
    runtime: RuntimeConfig = RuntimeConfig()

"""Options of the optimizer, the learning rate and the average of the weights."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from align_keras.config.section import (
    CHANGEABLE,
    INCREASING,
    Fraction,
    OneOf,
    Pattern,
    Section,
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
    exclude_from_weight_decay: tuple[Pattern, ...] = Field(
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


class OptimizerConfig(OneOf):
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

    boundaries: Annotated[tuple[PositiveInt, ...], INCREASING] = Field(
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


class LearningRateConfig(OneOf):
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


class WarmupConfig(OneOf):
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

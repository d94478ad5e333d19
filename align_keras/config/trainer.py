"""The `trainer` section: steps, intervals, optimizer and learning rate.

One-of configs nest as in TF Model Garden: `type` names the member that counts,
and each member keeps its own options.
"""

import dataclasses
from typing import Literal

from align_keras.config.fields import count, fraction, number

# Biases and normalisation parameters, by the usual practice of LAMB, and the
# temperature, which would otherwise move by ±lr relative at every step.
_EXCLUDED = ("bias", "gamma", "beta", "temperature")


@dataclasses.dataclass(frozen=True)
class LambConfig:
    """LAMB, the paper's optimizer.

    Attributes:
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float > 0.
        weight_decay: float >= 0.
        exclude_from_weight_decay: tuple of str, patterns of the variables
            without weight decay and without trust ratio.
        global_clipnorm: float > 0, bound of the norm of all gradients together,
            or None.

    References:
        Jia et al. 2021, section 5: weight decay 1e-5; the rest isn't stated
        and is You et al. 2020's.
    """

    beta_1: float = fraction(0.9)
    beta_2: float = fraction(0.999)
    epsilon: float = number(1e-6, above=0)
    weight_decay: float = number(1e-5, at_least=0)
    exclude_from_weight_decay: tuple[str, ...] = _EXCLUDED
    global_clipnorm: float | None = number(None, above=0)


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """AdamW: Adam with decoupled weight decay.

    Attributes:
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float > 0.
        weight_decay: float >= 0.
        exclude_from_weight_decay: tuple of str, patterns of the variables
            without weight decay.
        global_clipnorm: float > 0, bound of the norm of all gradients together,
            or None.
    """

    beta_1: float = fraction(0.9)
    beta_2: float = fraction(0.999)
    epsilon: float = number(1e-7, above=0)
    weight_decay: float = number(1e-5, at_least=0)
    exclude_from_weight_decay: tuple[str, ...] = _EXCLUDED
    global_clipnorm: float | None = number(None, above=0)


@dataclasses.dataclass(frozen=True)
class SGDConfig:
    """SGD with momentum.

    Attributes:
        momentum: float in [0, 1).
        nesterov: bool.
        weight_decay: float >= 0, of an L2 penalty.
        exclude_from_weight_decay: tuple of str, patterns of the variables
            without weight decay.
        global_clipnorm: float > 0, bound of the norm of all gradients together,
            or None.

    References:
        Jia et al. 2021, section 5.3: momentum 0.9 in fine-tuning on ImageNet.
    """

    momentum: float = fraction(0.9)
    nesterov: bool = False
    weight_decay: float = number(0.0, at_least=0)
    exclude_from_weight_decay: tuple[str, ...] = _EXCLUDED
    global_clipnorm: float | None = number(None, above=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One of the optimizers.

    Attributes:
        type: `"lamb"`, `"adamw"` or `"sgd"`.
        lamb: `LambConfig`.
        adamw: `AdamWConfig`.
        sgd: `SGDConfig`.
    """

    type: Literal["lamb", "adamw", "sgd"] = "lamb"
    lamb: LambConfig = LambConfig()
    adamw: AdamWConfig = AdamWConfig()
    sgd: SGDConfig = SGDConfig()

    def get(self):
        """Returns the config of the optimizer that `type` names."""
        return getattr(self, self.type)


@dataclasses.dataclass(frozen=True)
class LinearDecayConfig:
    """Linear decay.

    Attributes:
        initial_learning_rate: float > 0, the peak.
        end_learning_rate: float >= 0.
        decay_steps: int >= 1, or None for all steps after the warm-up.

    References:
        Jia et al. 2021, section 5: from 1e-3 to zero.
    """

    initial_learning_rate: float = number(1e-3, above=0)
    end_learning_rate: float = number(0.0, at_least=0)
    decay_steps: int | None = count(None)


@dataclasses.dataclass(frozen=True)
class CosineDecayConfig:
    """Cosine decay.

    Attributes:
        initial_learning_rate: float > 0, the peak.
        alpha: float in [0, 1], the end as a fraction of the peak.
        decay_steps: int >= 1, or None for all steps after the warm-up.
    """

    initial_learning_rate: float = number(1e-3, above=0)
    alpha: float = number(0.0, at_least=0, at_most=1)
    decay_steps: int | None = count(None)


@dataclasses.dataclass(frozen=True)
class StepwiseConfig:
    """A constant learning rate up to each boundary, then the next one.

    Attributes:
        boundaries: tuple of increasing ints >= 1, steps after the warm-up.
        values: tuple of floats > 0, one more than boundaries.
    """

    boundaries: tuple[int, ...] = count((100_000,))
    values: tuple[float, ...] = number((1e-3, 1e-4), above=0)


@dataclasses.dataclass(frozen=True)
class ConstantConfig:
    """A constant learning rate.

    Attributes:
        learning_rate: float > 0.
    """

    learning_rate: float = number(1e-3, above=0)


@dataclasses.dataclass(frozen=True)
class LearningRateConfig:
    """One of the learning-rate schedules.

    Attributes:
        type: `"linear"`, `"cosine"`, `"stepwise"` or `"constant"`.
        linear: `LinearDecayConfig`.
        cosine: `CosineDecayConfig`.
        stepwise: `StepwiseConfig`.
        constant: `ConstantConfig`.
    """

    type: Literal["linear", "cosine", "stepwise", "constant"] = "linear"
    linear: LinearDecayConfig = LinearDecayConfig()
    cosine: CosineDecayConfig = CosineDecayConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    constant: ConstantConfig = ConstantConfig()

    def get(self):
        """Returns the config of the schedule that `type` names."""
        return getattr(self, self.type)


@dataclasses.dataclass(frozen=True)
class LinearWarmupConfig:
    """Linear warm-up.

    Attributes:
        warmup_steps: int >= 0.
        warmup_learning_rate: float >= 0, where it starts.

    References:
        Jia et al. 2021, section 5: from zero in 10k steps.
    """

    warmup_steps: int = count(10_000, at_least=0)
    warmup_learning_rate: float = number(0.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    """One of the warm-ups, or none.

    Attributes:
        type: `"linear"`, or None.
        linear: `LinearWarmupConfig`.
    """

    type: Literal["linear"] | None = "linear"
    linear: LinearWarmupConfig = LinearWarmupConfig()

    def get(self):
        """Returns the config of the warm-up that `type` names, or None."""
        return self.type and getattr(self, self.type)


@dataclasses.dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of the weights, used to evaluate and at the end.

    Attributes:
        average_decay: float in [0, 1), or None for no average.
    """

    average_decay: float | None = fraction(None)


@dataclasses.dataclass(frozen=True)
class OptimizationConfig:
    """Optimizer, learning rate, warm-up and average of the weights.

    Attributes:
        optimizer: `OptimizerConfig`.
        learning_rate: `LearningRateConfig`.
        warmup: `WarmupConfig`.
        ema: `EMAConfig`.
    """

    optimizer: OptimizerConfig = OptimizerConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    warmup: WarmupConfig = WarmupConfig()
    ema: EMAConfig = EMAConfig()


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """The `trainer` section; all intervals are in steps.

    Attributes:
        train_steps: int >= 1, a multiple of `steps_per_loop`.
        steps_per_loop: int >= 1, steps whose losses are averaged and logged.
        checkpoint_interval: int, a multiple of `steps_per_loop`.
        validation_interval: int, a multiple of `steps_per_loop`.
        max_to_keep: int >= 1, checkpoints kept.
        best_checkpoint_eval_metric: str, a metric of the evaluation, such as
            `t2i/recall_at_1`, whose best checkpoint is kept too, or None.
        best_checkpoint_metric_comp: `"higher"` or `"lower"`, what is better.
        best_checkpoint_by_test: bool, let the best checkpoint be chosen on pairs
            whose split or table is named `test`, which is refused otherwise.
        loss_upper_bound: float > 0, a loss that stops the run, or None.
        seed: int >= 0, of the initial weights, dropout and the data.
        optimizer_config: `OptimizationConfig`.

    References:
        Jia et al. 2021, section 5: 1.2M steps.
    """

    train_steps: int = count(1_200_000)
    steps_per_loop: int = count(1_000)
    checkpoint_interval: int = count(10_000)
    validation_interval: int = count(10_000)
    max_to_keep: int = count(3)
    best_checkpoint_eval_metric: str | None = None
    best_checkpoint_metric_comp: Literal["higher", "lower"] = "higher"
    best_checkpoint_by_test: bool = False
    loss_upper_bound: float | None = number(1_000.0, above=0)
    seed: int = count(0, at_least=0)
    optimizer_config: OptimizationConfig = OptimizationConfig()

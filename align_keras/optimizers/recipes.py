"""Recipes of `ALIGN.compile`, which choose the optimizer and its schedule for a run."""

import dataclasses
import math
from typing import Any

import keras

from align_keras.optimizers.adamw import Muon
from align_keras.optimizers.lamb import Lamb
from align_keras.optimizers.warmup import LinearWarmup, paper_schedule
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

RECIPES = ("auto", "paper")
# Learning rate of Muon for a batch size of REFERENCE_BATCH_SIZE, measured by
# tools/benchmarks/bench_recipe.py of commit a3635080.
REFERENCE_LEARNING_RATE = 5e-3
REFERENCE_BATCH_SIZE = 64
# Factor of the learning rate if the weights are already trained.
FINE_TUNING_FACTOR = 0.1
WEIGHT_DECAY = 0.05
# Temperature at the start of training. From the initial value of the paper, 1.0, the
# temperature would need a large part of a short run to decrease.
INITIAL_TEMPERATURE = 0.1
# Fraction of the run that is the warm-up.
WARMUP_FRACTION = 0.1
# Steps. Maximum length of the warm-up, which is the length in the paper.
MAX_WARMUP_STEPS = 10_000
# Steps. Warm-up of a run of unknown length.
UNKNOWN_LENGTH_WARMUP_STEPS = 100
# Momentum of the moving statistics in a run of unknown length.
UNKNOWN_LENGTH_MOMENTUM = 0.9
# Fraction of a run that the moving statistics average over. In the last tenth of a run,
# the learning rate is close to zero, so the weights hardly change.
STATISTICS_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class ResolvedRecipe:
    """Optimizer settings of the recipe "auto" for one run.

    Attributes:
        steps: updates from the start of the schedule to its end, or None for a
            run of unknown length.
        batch_size: pairs per step over all replicas, or None if unknown.
        warmup_steps: ≥ 0, updates in which the learning rate rises linearly.
        learning_rate: > 0, the rate after the warm-up.
        is_fine_tuning: True if the weights are already trained, for which the
            rate is lower.
        initial_temperature: the temperature that the recipe sets before the
            first step, or None if the recipe doesn't change the temperature.
    """

    steps: int | None
    batch_size: int | None
    warmup_steps: int
    learning_rate: float
    is_fine_tuning: bool = False
    initial_temperature: float | None = None

    @property
    def max_batch_norm_momentum(self) -> float:
        """Largest momentum of the moving statistics.

        With this momentum, the statistics average over the last tenth of the run.
        """
        if self.steps is None:
            return UNKNOWN_LENGTH_MOMENTUM
        return max(0.0, 1.0 - 1.0 / (STATISTICS_FRACTION * self.steps))

    def schedule(self, first_step: int = 0) -> LinearWarmup:
        """Returns the learning-rate schedule of a run.

        Args:
            first_step: value of the optimizer's `iterations` at which the schedule
                starts. A negative value continues a schedule that started before
                step 0.
        """
        after: keras.optimizers.schedules.LearningRateSchedule | float
        after = self.learning_rate
        if self.steps is not None:
            after = keras.optimizers.schedules.CosineDecay(
                self.learning_rate, max(1, self.steps - self.warmup_steps)
            )
        # The warm-up starts above zero, so that the first update has an effect.
        start = self.learning_rate / (self.warmup_steps + 1)
        return LinearWarmup(after, self.warmup_steps, start, first_step=first_step)

    def build_optimizer(self, first_step: int = 0) -> Muon:
        """Returns the optimizer, whose variables are not created yet."""
        return Muon(self.schedule(first_step), weight_decay=WEIGHT_DECAY)

    def __str__(self) -> str:
        """Returns a description of the settings in one line."""
        text = f"recipe: Muon, learning rate {self.learning_rate:.2g}"
        if self.is_fine_tuning:
            text += " (trained weights)"
        if self.warmup_steps:
            text += f" after {self.warmup_steps:,} steps of warm-up"
        if self.steps is None:
            text += ", then constant, as the number of steps is unknown"
        else:
            text += f", cosine decay to 0 at step {self.steps:,}"
        if self.batch_size is None:
            text += ", batch size unknown"
        else:
            text += f", batch size {self.batch_size:,}"
        if self.initial_temperature is not None:
            text += f", initial temperature {self.initial_temperature:g}"
        return text


def resolve_recipe(
    steps: int | None, batch_size: int | None, is_fine_tuning: bool = False
) -> ResolvedRecipe:
    """Returns the settings of the recipe "auto" for a run.

    The warm-up is a tenth of the run, at most 10,000 steps. The learning rate is
    proportional to the square root of the batch size.

    Args:
        steps: ≥ 1, updates of the run. None is for a run of unknown length, whose
            rate is constant after 100 steps of warm-up.
        batch_size: ≥ 1, pairs per step over all replicas. None is for an unknown
            batch size, and uses the rate for a batch size of 64.
        is_fine_tuning: use a tenth of the rate, for trained weights.

    Returns:
        `ResolvedRecipe`.

    Example:

    >>> recipe = resolve_recipe(steps=1000, batch_size=256)
    >>> recipe.warmup_steps, round(recipe.learning_rate, 6)
    (100, 0.01)
    """
    ratio = (batch_size or REFERENCE_BATCH_SIZE) / REFERENCE_BATCH_SIZE
    rate = REFERENCE_LEARNING_RATE * math.sqrt(ratio)
    if is_fine_tuning:
        rate *= FINE_TUNING_FACTOR
    if steps is None:
        warmup_steps = UNKNOWN_LENGTH_WARMUP_STEPS
    else:
        warmup_steps = min(int(steps * WARMUP_FRACTION), MAX_WARMUP_STEPS)
    return ResolvedRecipe(steps, batch_size, warmup_steps, rate, is_fine_tuning)


def paper_optimizer() -> Lamb:
    """Returns LAMB with the schedule of the paper.

    References:
        Jia et al. 2021, section 5.
    """
    return Lamb(paper_schedule())


def check_recipe(recipe: str | None, optimizer: object) -> None:
    """Raises if `recipe` is unknown or is combined with an optimizer."""
    if recipe is None:
        return
    check_choice("recipe", recipe, RECIPES)
    if optimizer is not None:
        raise InputError(
            "recipe must be None if an optimizer is passed. Received: "
            f"recipe={recipe!r} and optimizer={type(optimizer).__name__}. Leave one of "
            "them out."
        )


def warmup_warning(optimizer: object, steps: int) -> str | None:
    """Returns a warning if the warm-up does not end within the run, or None.

    Args:
        optimizer: Keras optimizer.
        steps: value of the optimizer's `iterations` at the end of the run.
    """
    schedule: Any = getattr(optimizer, "_learning_rate", None)
    warmup_steps = getattr(schedule, "warmup_steps", None) or 0
    warmup_steps += getattr(schedule, "first_step", 0)
    if warmup_steps < steps or not warmup_steps:
        return None
    rate = float(schedule(steps))
    return (
        "warning: the warm-up must be shorter than the run. Received: "
        f"{warmup_steps:,} steps of warm-up in a run of {steps:,} steps, which ends at "
        f"a learning rate of {rate:.2g}. Shorten the warm-up, train longer, or call "
        "compile() without an optimizer."
    )

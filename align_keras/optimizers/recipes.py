"""Default optimizers of `ALIGN.compile`, resolved when the length of a run is known."""

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
# Learning rate of Muon at batches of REFERENCE_BATCH_SIZE, measured by
# tools/benchmarks/bench_recipe.py.
REFERENCE_LEARNING_RATE = 5e-3
REFERENCE_BATCH_SIZE = 64
# Share of the peak rate for weights that are already trained.
FINE_TUNING_FACTOR = 0.1
WEIGHT_DECAY = 0.05
# Temperature that a short run starts from. It would take a large part of the run to
# fall from the paper's 1.0.
INITIAL_TEMPERATURE = 0.1
WARMUP_FRACTION = 0.1
# Steps. Longer runs keep the paper's warm-up.
MAX_WARMUP_STEPS = 10_000
# Steps. Warm-up of a run whose length is unknown.
UNKNOWN_LENGTH_WARMUP_STEPS = 100
# Momentum of the moving statistics in a run whose length is unknown.
UNKNOWN_LENGTH_MOMENTUM = 0.9
# Share of a run that the moving statistics average over. The learning rate is close to
# zero in the last tenth.
STATISTICS_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class ResolvedRecipe:
    """Optimizer settings of the recipe "auto" for one run.

    Attributes:
        steps: int, updates from the start of the schedule to its end, or None for a
            run of unknown length.
        batch_size: int, pairs a step over all replicas, or None if unknown.
        warmup_steps: int ≥ 0, updates in which the learning rate rises linearly.
        learning_rate: float > 0, the rate after the warm-up.
        is_fine_tuning: bool, the rate is that of weights that are already trained.
        initial_temperature: float, the temperature that the recipe sets before the
            first step, or None if it keeps the model's.
    """

    steps: int | None
    batch_size: int | None
    warmup_steps: int
    learning_rate: float
    is_fine_tuning: bool = False
    initial_temperature: float | None = None

    @property
    def max_batch_norm_momentum(self) -> float:
        """Momentum at which the moving statistics forget the start of the run."""
        if self.steps is None:
            return UNKNOWN_LENGTH_MOMENTUM
        return max(0.0, 1.0 - 1.0 / (STATISTICS_FRACTION * self.steps))

    def schedule(self, first_step: int = 0) -> LinearWarmup:
        """Returns the schedule of a run that begins at step `first_step`.

        A negative `first_step` goes on in a schedule that began before step 0.
        """
        after: keras.optimizers.schedules.LearningRateSchedule | float
        after = self.learning_rate
        if self.steps is not None:
            after = keras.optimizers.schedules.CosineDecay(
                self.learning_rate, max(1, self.steps - self.warmup_steps)
            )
        # The first update is not wasted on a learning rate of zero.
        start = self.learning_rate / (self.warmup_steps + 1)
        return LinearWarmup(after, self.warmup_steps, start, first_step=first_step)

    def build_optimizer(self, first_step: int = 0) -> Muon:
        """Returns the optimizer, without variables of the model's weights."""
        return Muon(self.schedule(first_step), weight_decay=WEIGHT_DECAY)

    def __str__(self) -> str:
        """Returns one line for the user."""
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
    """Returns the recipe "auto" for a run.

    The warm-up is a tenth of the run, at most 10,000 steps. The learning rate grows
    with the square root of the batch size.

    Args:
        steps: int ≥ 1, updates of the run, or None if its length is unknown. The rate
            is then constant after 100 steps of warm-up.
        batch_size: int ≥ 1, pairs a step over all replicas, or None if unknown. The
            rate is then that of batches of 64.
        is_fine_tuning: bool, use a tenth of the rate, for trained weights.

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
    """Raises unless `recipe` is None, or the name of a recipe without an optimizer."""
    if recipe is None:
        return
    check_choice("recipe", recipe, RECIPES)
    if optimizer is not None:
        raise InputError(
            "recipe must be left out where an optimizer is given. Received: "
            f"recipe={recipe!r} and optimizer={type(optimizer).__name__}. Leave one of "
            "them out."
        )


def warmup_warning(optimizer: object, steps: int) -> str | None:
    """Returns a warning if the warm-up does not end within the run, or None.

    Args:
        optimizer: Keras optimizer.
        steps: int, value of the optimizer's `iterations` at the end of the run.
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
        f"a learning rate of {rate:.2g}. Shorten the warm-up, train for longer, or "
        "call compile() without an optimizer."
    )

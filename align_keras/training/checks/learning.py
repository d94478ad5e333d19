"""Checks of losses, learning rate, temperature, gradients and embeddings.

Each check is a function of measured values that returns a `Finding` or None.
"""

import math
from collections.abc import Sequence

import numpy as np

from align_keras.losses import ContrastiveLoss, MatryoshkaLoss, PairLoss, SigmoidLoss
from align_keras.training.checks.finding import Finding

# Fraction of the loss of a random guess. A model that has learned less than this
# fraction of it has learned nothing: one batch of 64 pairs differs from the next one by
# about as much.
LEARNED_FRACTION = 0.05
# Fraction of the loss that was already learned. The mean over ten blocks of steps
# increases by less than this fraction in a training that works.
LOST_FRACTION = 0.25
# Fraction of the loss of a random guess, by which pretrained weights are recognized in
# their first batch.
TRAINED_FRACTION = 0.25
# Fraction of the loss that pretrained weights have learned. The first batch may be
# easier than others, but not by that much.
SPOILED_FRACTION = 0.5
# Fraction of the loss of a random guess. Noise of the first steps stays below it.
SPIKE_FRACTION = 0.25
# Fraction of the loss of a random guess. A model whose weights are destroyed has the
# same loss in all batches. Means of ten losses of other models differ by about 0.1%.
CONSTANT_FRACTION = 1e-4
# Correlation of the loss with the step, from -1 to 1. The losses of a model that
# doesn't learn have a correlation of about 0. At a learning rate that is too low, the
# loss decreases slowly, but on a straight line.
STEADY_CORRELATION = -0.9
# Number of blocks of steps. A correlation of fewer values is often -0.9 by chance.
MIN_BLOCKS = 10
# Number of blocks of steps, over which the current loss is averaged.
RECENT_BLOCKS = 10
# Cosine. The embeddings of trained models have mean cosines from 0 to 0.6, and those of
# an untrained model have a mean cosine of about 0.99.
COLLAPSED_COSINE = 0.98
# Number of different inputs. A mean cosine of fewer inputs is too noisy.
MIN_INPUTS = 4
# Ratio of the gradient norms of an encoder and of the model. Gradients of encoders that
# learn differ by less than a factor of 1,000.
MIN_GRADIENT_RATIO = 1e-6
# Temperature. CLIP and open_clip clamp it to at least 0.01. The paper ends at 0.0156,
# and SigLIP, which has no bound, at 0.0085.
CLIP_BOUND = 0.01
MIN_TEMPERATURE = 0.5 * CLIP_BOUND
# Temperature. At 0.5, the best embeddings give the caption of an image a probability of
# 11% among 64 captions.
MAX_TEMPERATURE = 0.5


def check_loss_at_chance(
    loss: float, chance: float, pairs: int, steps: int, rate: float
) -> Finding | None:
    """Checks that the model has learned more than a random guess.

    Args:
        loss: mean loss of the last steps.
        chance: loss of a random guess.
        pairs: pairs of a batch.
        steps: number of steps.
        rate: highest learning rate of these steps.
    """
    if chance - loss >= LEARNED_FRACTION * chance:
        return None
    return Finding(
        "loss_at_chance",
        f"The loss is {loss:.2f} after {steps:,} steps, but a random guess among "
        f"{pairs:,} pairs has a loss of {chance:.2f}.",
        "Check that each caption belongs to its image, and try learning rates ten "
        f"times higher and ten times lower than {rate:.2g}.",
        steps,
        {"loss": loss, "chance_loss": chance, "pairs": pairs},
    )


def check_too_few_steps(
    loss: float, chance: float, pairs: int, steps: int
) -> Finding | None:
    """Checks that a short training has learned something.

    The arguments are those of `check_loss_at_chance`.
    """
    if chance - loss >= LEARNED_FRACTION * chance:
        return None
    return Finding(
        "too_few_steps",
        f"The loss is still {loss:.2f} after {steps:,} steps, and a random guess among "
        f"{pairs:,} pairs has a loss of {chance:.2f}.",
        "Train for a few hundred steps, such as with more epochs.",
        steps,
        {"loss": loss, "chance_loss": chance, "pairs": pairs},
    )


def check_rate_too_low(
    losses: Sequence[float], chance: float, steps: int, rate: float
) -> Finding | None:
    """Checks that the loss decreases fast enough, if it decreases.

    Args:
        losses: mean losses of blocks of steps since the start.
        chance: loss of a random guess.
        steps: number of steps.
        rate: highest learning rate of these steps.
    """
    if len(losses) < MIN_BLOCKS:
        return None
    first, last = losses[0], losses[-1]
    if has_learned(losses, chance) or not last < first:
        return None
    correlation = np.corrcoef(np.arange(len(losses)), losses)[0, 1]
    if correlation > STEADY_CORRELATION:
        return None
    return Finding(
        "learning_rate_too_low",
        f"The loss decreases steadily, but only from {first:.2f} to {last:.2f} in "
        f"{steps:,} steps, and a random guess has a loss of {chance:.2f}.",
        f"Raise the learning rate from {rate:.2g} to {10 * rate:.2g}, or train longer.",
        steps,
        {"first_loss": first, "last_loss": last, "learning_rate": rate},
    )


def has_learned(losses: Sequence[float], chance: float) -> bool:
    """Returns True if the current loss is clearly below that of a random guess.

    Args:
        losses: mean losses of blocks of steps, at least one.
        chance: loss of a random guess.
    """
    loss = float(running_means(losses)[-1])
    return loss < chance - 2 * LEARNED_FRACTION * chance


def check_rate_too_high(
    losses: Sequence[float],
    initial_loss: float,
    chance: float,
    steps: int,
    rate: float,
) -> Finding | None:
    """Checks that the loss doesn't increase.

    Args:
        losses: mean losses of blocks of steps since the start.
        initial_loss: loss of the first step, before any update.
        chance: loss of a random guess.
        steps: number of steps.
        rate: highest learning rate of these steps.
    """
    if len(losses) < MIN_BLOCKS:
        return None
    last = losses[-1]
    remedy = (
        f"Lower the learning rate from {rate:.2g} to {rate / 10:.2g}, or lengthen the "
        "warm-up."
    )
    details = {"initial_loss": initial_loss, "loss": last, "learning_rate": rate}
    # Large steps destroy the weights early. A model that slowly learns the loss of a
    # random guess has another problem.
    later_losses = losses[len(losses) // 4 :]
    is_constant = np.ptp(later_losses) < CONSTANT_FRACTION * chance
    is_at_chance = abs(last - chance) < CONSTANT_FRACTION * chance
    was_elsewhere = abs(initial_loss - chance) > LEARNED_FRACTION * chance
    if is_constant and is_at_chance and was_elsewhere:
        return Finding(
            "learning_rate_too_high",
            f"The loss is constant at {last:.2f}, that of a random guess, but started "
            f"at {initial_loss:.2f}.",
            remedy,
            steps,
            details,
        )
    # The mean over several blocks is less noisy than one block.
    means = running_means(losses)
    least, last = float(means.min()), float(means[-1])
    # Pretrained weights have a low loss before the first update.
    was_trained = chance - initial_loss > TRAINED_FRACTION * chance
    if was_trained and last - initial_loss > SPOILED_FRACTION * (chance - initial_loss):
        return Finding(
            "learning_rate_too_high",
            f"The loss increased from {initial_loss:.2f} to {last:.2f} within "
            f"{steps:,} steps.",
            remedy,
            steps,
            details,
        )
    start = max(initial_loss, chance)
    highest = max(losses)
    jumped = highest > start + SPIKE_FRACTION * chance
    is_lost = last > start - LEARNED_FRACTION * start
    fell = start - least > 2 * LEARNED_FRACTION * start
    increased = last - least > LOST_FRACTION * (start - least)
    if not (jumped and is_lost) and not (fell and increased):
        return None
    low, high = (least, last) if fell and increased else (initial_loss, highest)
    return Finding(
        "learning_rate_too_high",
        f"The loss increased from {low:.2f} to {high:.2f} within {steps:,} steps.",
        remedy,
        steps,
        details,
    )


def running_means(losses: Sequence[float]) -> np.ndarray:
    """Returns the means of 10 successive blocks, or of a quarter of fewer blocks."""
    width = min(RECENT_BLOCKS, max(1, len(losses) // 4))
    return np.convolve(losses, np.full(width, 1 / width), "valid")


def check_collapse(
    images: np.ndarray, texts: np.ndarray, has_negatives: bool, steps: int
) -> Finding | None:
    """Checks that different inputs have different embeddings.

    Args:
        images: float array (n, d), embeddings of different images.
        texts: float array (m, d), embeddings of different captions.
        has_negatives: False if the loss may have no negatives.
        steps: number of steps.
    """
    cosines = {
        name: mean_cosine(rows)
        for name, rows in (("image", images), ("text", texts))
        if len(rows) >= MIN_INPUTS
    }
    collapsed = {n: c for n, c in cosines.items() if c > COLLAPSED_COSINE}
    if not collapsed:
        return None
    names = " and ".join(collapsed)
    remedy = "Try learning rates ten times higher and ten times lower."
    if not has_negatives:
        remedy = (
            "Use a loss with negatives, such as `ContrastiveLoss`, and try learning "
            "rates ten times higher and ten times lower."
        )
    return Finding(
        "embeddings_collapsed",
        f"The {names} embeddings of different inputs are nearly equal, with a mean "
        f"cosine of {min(collapsed.values()):.3f}.",
        remedy,
        steps,
        {f"{name}_cosine": cosine for name, cosine in cosines.items()},
    )


def mean_cosine(embeddings: np.ndarray) -> float:
    """Returns the mean cosine of all pairs of different rows of (n, d), n ≥ 2."""
    rows = np.asarray(embeddings, "float64")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(norms, 1e-12)
    count = len(rows)
    total = float((rows.sum(axis=0) ** 2).sum())
    return (total - float((rows**2).sum())) / (count * (count - 1))


def check_gradients(
    norms: dict[str, float], model_norm: float, trained: Sequence[str], steps: int
) -> Finding | None:
    """Checks that each trained encoder has a gradient.

    Args:
        norms: dict from `"image"` and `"text"` to the mean gradient norm.
        model_norm: mean gradient norm of the model.
        trained: names of the encoders that have trainable weights.
        steps: number of steps.
    """
    missing = [
        name for name in trained if norms[name] <= MIN_GRADIENT_RATIO * model_norm
    ]
    if not missing:
        return None
    encoder = missing[0]
    if len(missing) == 2:
        problem = "Both encoders have trainable weights, but their gradients are zero."
    else:
        problem = (
            f"The {encoder} encoder has trainable weights, but its gradient is zero."
        )
    return Finding(
        "no_gradient",
        problem,
        "Remove what blocks the gradient, such as a `stop_gradient` in the loss, or "
        f"set `model.{encoder}_encoder.trainable = False` to freeze the encoder.",
        steps,
        {f"{name}_gradient_norm": norms[name] for name in norms},
    )


def check_temperature(
    temperature: float, initial_temperature: float, steps: int
) -> Finding | None:
    """Checks that the temperature is in the range in which a model learns.

    Args:
        temperature: current temperature.
        initial_temperature: temperature before the training.
        steps: number of steps.
    """
    details = {"temperature": temperature}
    if temperature < MIN_TEMPERATURE:
        return Finding(
            "temperature_at_bound",
            f"The temperature is {temperature:.2g}, less than half of {CLIP_BOUND}, "
            "the bound of CLIP.",
            "Lower the learning rate, or keep the temperature constant with "
            "`learn_temperature=False`.",
            steps,
            details,
        )
    if temperature <= MAX_TEMPERATURE:
        return None
    remedy = "Start from a lower temperature, such as `initial_temperature=0.1`."
    if temperature > 2 * initial_temperature:
        remedy = (
            f"Lower the learning rate, since the temperature started at "
            f"{initial_temperature:.2g}."
        )
    return Finding(
        "temperature_at_bound",
        f"The temperature is {temperature:.2g}, and above {MAX_TEMPERATURE} the loss "
        "barely distinguishes a good model from a bad one.",
        remedy,
        steps,
        details,
    )


def chance_loss(loss: PairLoss, pairs: int) -> float | None:
    """Returns the loss of a random guess, or None if it is unknown.

    Args:
        loss: loss of the model. It is known for `ContrastiveLoss`, `SigmoidLoss` and a
            `MatryoshkaLoss` of them.
        pairs: pairs of a batch.
    """
    if isinstance(loss, MatryoshkaLoss):
        chance = chance_loss(loss.loss, pairs)
        return None if chance is None else sum(loss.weights) * chance
    if isinstance(loss, ContrastiveLoss):
        direction = math.log(max(1.0, pairs * loss.negatives_fraction))
        return 2 * direction if loss.reduction == "sum" else direction
    if isinstance(loss, SigmoidLoss):
        # Each caption of an image has the probability 1 / n.
        return math.log(pairs) - (pairs - 1) * math.log1p(-1 / pairs)
    return None

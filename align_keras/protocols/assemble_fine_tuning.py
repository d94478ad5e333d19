"""From a recipe of experiments/evaluation/ to stages, schedules and trials."""

import dataclasses
import functools

import keras

from align_keras.config import as_dict
from align_keras.training.classification import FineTuningStage
from align_keras.utils.errors import InputError
from align_keras.utils.trials import drawn_options

_RANGES = ("learning_rate", "weight_decay")
_CHOICES = ("steps", "batch_size", "crop", "flip")
# Of the last stage; the others are the recipe's own.
_OF_STAGE = ("learning_rate", "steps")


def build_stages(recipe, make_batches, count):
    """Builds the stages of a recipe.

    Args:
        recipe: `FineTuningConfig`.
        make_batches: callable of a picture's side and of the step to start at →
            endless `tf.data.Dataset`.
        count: int, pictures to learn from.

    Returns:
        list of `FineTuningStage`.
    """
    stages = []
    for name in ("head", "full"):
        stage = getattr(recipe, name)
        if not stage.is_left_out:
            steps = stage.length(recipe.batch_size, count)
            stages.append(
                FineTuningStage(
                    make_batches=functools.partial(make_batches, stage.train_size),
                    steps=steps,
                    learning_rate=build_schedule(
                        stage, steps, count / recipe.batch_size
                    ),
                    learns_encoder=name == "full",
                    encoder_multiplier=getattr(stage, "backbone_multiplier", 1.0),
                )
            )
    return stages


def build_schedule(stage, steps, steps_per_epoch):
    """Builds a stage's learning rate, a schedule or a number.

    Args:
        stage: `HeadStageConfig`.
        steps: int, the stage's length.
        steps_per_epoch: float.

    Returns:
        `keras.optimizers.schedules.LearningRateSchedule` or float.
    """
    rate, schedules = stage.learning_rate, keras.optimizers.schedules
    if stage.schedule == "constant":
        return rate
    if stage.schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    starts, values = [], [rate]
    while True:
        start = round(len(values) * stage.decay_epochs * steps_per_epoch)
        if start >= steps:
            break
        # Keras changes after the boundary, and steps are counted from 0.
        starts.append(max(start - 1, 0))
        values.append(values[-1] * stage.decay_factor)
    return schedules.PiecewiseConstantDecay(starts, values) if starts else rate


def swept_recipe(recipe, number):
    """Returns the recipe of a trial of the sweep, with the options drawn for it.

    Args:
        recipe: `FineTuningConfig`.
        number: int ≥ 0.

    Returns:
        `FineTuningConfig`.
    """
    ranges = {name: getattr(recipe.sweep, name) for name in _RANGES}
    choices = {name: getattr(recipe.sweep, name) for name in _CHOICES}
    drawn = drawn_options(
        {name: values for name, values in ranges.items() if values},
        {name: values for name, values in choices.items() if values},
        recipe.seed,
        number,
    )
    of_stage = {name: drawn.pop(name) for name in _OF_STAGE if name in drawn}
    if "steps" in of_stage:
        of_stage["epochs"] = None
    last = recipe.last_stage
    stage = dataclasses.replace(getattr(recipe, last), **of_stage)
    return dataclasses.replace(recipe, **drawn, **{last: stage})


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a classifier, and what it learns from and is judged on.

    Attributes:
        task: str, a task of VTAB, or empty.
        learns_from: str, a split.
        judged_on: str, a split.
        recipe: `FineTuningConfig`.
        seed: int.
    """

    task: str
    learns_from: str
    judged_on: str
    recipe: object
    seed: int

    def inputs(self, model, data):
        """What the result depends on, as JSON can hold it.

        Args:
            model: str, the image encoder's fingerprint.
            data: what tells the data apart from other data.

        Returns:
            dict.
        """
        recipe = as_dict(self.recipe)
        # Of the set of trials, not of one, or without influence.
        for name in ("runs", "seed", "sweep", "checkpoint_interval"):
            del recipe[name]
        splits = [self.learns_from, self.judged_on]
        return {
            "model": model,
            "data": data,
            "splits": [self.task, *splits],
            "recipe": recipe,
            "seed": self.seed,
        }

    def __str__(self):
        return f"{self.task or 'training'}, seed {self.seed}"


def check_no_sweep(recipe, protocol):
    """Raises if the recipe sweeps, where there is nothing to tune on."""
    if recipe.sweep.trials:
        raise InputError(
            f"sweep.trials must be 0 for {protocol}, received {recipe.sweep.trials}; "
            "only vtab has pictures set aside to tune on."
        )

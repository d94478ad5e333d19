"""Training logic of the dual encoder: `compile`, `fit`, the step and its metrics."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from align_keras.layers.batch_normalization import FusedBatchNormalization
from align_keras.losses.contrastive_loss import ContrastiveLoss
from align_keras.losses.cross_replica import reduce_over_replicas, replica_count
from align_keras.losses.pair_loss import PairLoss, as_pair_loss
from align_keras.models import fit_arguments, fit_inputs, input_checks
from align_keras.models.gradients import (
    ForwardState,
    cached_loss_gradients,
    check_micro_batches,
    check_weight_dtypes,
    gradient_norms,
    is_finite_step,
    loss_gradients,
)
from align_keras.optimizers import apply_if
from align_keras.optimizers.recipes import (
    INITIAL_TEMPERATURE,
    ResolvedRecipe,
    check_recipe,
    paper_optimizer,
    resolve_recipe,
    warmup_warning,
)
from align_keras.optimizers.replica_gradients import (
    check_clipping,
    inner_optimizer,
    take_summed_gradients,
)
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

GRADIENT_NORMS = ("gradient_norm", "image_gradient_norm", "text_gradient_norm")
_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)
# Arguments of Keras's `compile` that don't suit this model.
_UNSUPPORTED = ("loss_weights", "metrics", "weighted_metrics")


class ContrastiveModel(keras.Model):
    """Base class of `ALIGN` with `compile`, `fit` and the training step."""

    loss_metrics: "list[LossMetrics]"
    # Attributes of `keras.Model`.
    train_function: Callable | None
    test_function: Callable | None

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        loss: PairLoss | Callable | None = None,
        *,
        recipe: str | None = None,
        micro_batch_size: int | None = None,
        loss_upper_bound: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Sets the optimizer, or the recipe that chooses it, and the loss.

        The variables of the optimizer are created by `fit` or `build_optimizer`, so
        that a model which only computes embeddings does not allocate them.

        Args:
            optimizer: Keras optimizer, or None to use `recipe`.
            loss: None for `align_keras.losses.ContrastiveLoss`, another
                `align_keras.losses.PairLoss`, or a function of
                `(image_embeddings, text_embeddings, temperature)`, of the rows of all
                replicas, which returns a float tensor, scalar or (n,).
            recipe: str or None, the optimizer where none is given. `"auto"`, the
                default, is `Muon` with a learning rate by the batch size, a warm-up
                over a tenth of the run and a cosine decay. `fit` resolves it, since
                it knows the number of steps, and prints one line. A learned
                temperature of 1.0, the paper's, then starts from 0.1 if the weights
                are random. `"paper"` is `Lamb` with the paper's schedule of 1,200,000
                steps.
            micro_batch_size: int or None; pairs that a replica embeds at a time. The
                loss is that of the whole batch. A step takes about a third longer.
            loss_upper_bound: float or None. A loss above it stops `fit` before the
                update. A loss or a gradient that isn't finite always does.
            **kwargs: arguments of `keras.Model.compile`: `jit_compile`,
                `run_eagerly`, `steps_per_execution`, `auto_scale_loss`. The metrics
                are built in.

        Raises:
            InputError: if an argument isn't as above.

        References:
            Jia et al. 2021, section 5.

        Example:

        >>> from align_keras.models import ALIGN
        >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
        >>> model.compile(loss=ContrastiveLoss(tile_size="auto"))
        >>> model.loss.label_smoothing
        0.1
        >>> model.compile(recipe="paper")
        >>> model.optimizer.name
        'lamb'
        """
        loss = ContrastiveLoss() if loss is None else as_pair_loss(loss)
        check_micro_batches(self, micro_batch_size)
        check_recipe(recipe, optimizer)
        check_compile_arguments(kwargs)
        kwargs.setdefault("jit_compile", False)
        if optimizer is None:
            recipe = recipe or "auto"
            optimizer = paper_optimizer() if recipe == "paper" else None
        self.recipe = recipe
        self.resolved_recipe: ResolvedRecipe | None = None
        # The first run began from trained weights.
        self.is_fine_tuning = False
        self._compile_options = kwargs
        self._set_optimizer(optimizer)
        # An earlier recipe may have set another momentum.
        self._limit_batch_norm_momentum(1.0)
        self.loss = loss
        if self.loss_metrics[0].parts != loss.parts:
            self.loss_metrics = [LossMetrics(loss.parts)]
        self.micro_batch_size = micro_batch_size
        self.loss_upper_bound = loss_upper_bound
        self.forward_state = ForwardState(self)
        self.seconds_waited = 0.0
        # Steps of the next epoch of `fit` that were made before a restart.
        self.steps_to_skip = 0

    def _set_optimizer(
        self, optimizer: keras.optimizers.Optimizer | str | None
    ) -> None:
        """Gives the optimizer to Keras, which wraps it if the loss must be scaled."""
        super().compile(optimizer=optimizer, **self._compile_options)
        if optimizer is not None:
            replicas = self.distribute_strategy.num_replicas_in_sync
            check_clipping(self.optimizer, replicas)

    def _keep_changed_options(self) -> None:
        """Records options that were set on the model after `compile`."""
        for name in ("run_eagerly", "jit_compile", "steps_per_execution"):
            self._compile_options[name] = getattr(self, name)

    def resolve_recipe(
        self, steps: int | None, batch_size: int | None, initial_step: int = 0
    ) -> ResolvedRecipe | None:
        """Chooses the optimizer and the schedule of a run by the recipe "auto".

        `fit` calls this. An optimizer that the recipe chose before keeps its moments,
        and its schedule begins again. If the first run after `compile` began from
        trained weights, it and all later runs have a tenth of the learning rate.

        Args:
            steps: int, updates from step 0 of the run to its end, or None if its
                length is unknown.
            batch_size: int, pairs a step over all replicas, or None if unknown.
            initial_step: int ≥ 0, updates of this run that were made before.

        Returns:
            `ResolvedRecipe`, or None where `compile` was given an optimizer or
            another recipe.
        """
        if self.recipe != "auto":
            return None
        is_new = self.optimizer is None
        if is_new:
            self.is_fine_tuning = self._is_trained()
        resolved = resolve_recipe(steps, batch_size, self.is_fine_tuning)
        if is_new:
            if not self.is_fine_tuning and self._has_initial_temperature_of_paper():
                self.temperature_layer.log_temperature.assign(
                    math.log(INITIAL_TEMPERATURE)
                )
                resolved = dataclasses.replace(
                    resolved, initial_temperature=INITIAL_TEMPERATURE
                )
            with self.distribute_strategy.scope():
                self._keep_changed_options()
                self._set_optimizer(resolved.build_optimizer(-initial_step))
        else:
            optimizer = inner_optimizer(self.optimizer)
            first_step = int(optimizer.iterations.numpy()) - initial_step
            # The graph of the step holds the old schedule.
            optimizer.learning_rate = resolved.schedule(first_step)
            self.train_function = None
        self.resolved_recipe = resolved
        self._limit_batch_norm_momentum(resolved.max_batch_norm_momentum)
        return resolved

    def _batch_normalizations(self) -> list[FusedBatchNormalization]:
        """Returns the batch normalizations of the image encoder."""
        return [
            layer
            for layer in self._flatten_layers()
            if isinstance(layer, FusedBatchNormalization)
        ]

    def _is_trained(self) -> bool:
        """Returns True if moving statistics of the image encoder were updated."""
        layers = self._batch_normalizations()
        return any(bool(layer.moving_mean.numpy().any()) for layer in layers)

    def _has_initial_temperature_of_paper(self) -> bool:
        """Returns True if the temperature is learned and starts from 1.0."""
        layer = self.temperature_layer
        return layer.trainable and float(layer.temperature) == 1.0

    def _limit_batch_norm_momentum(self, limit: float) -> None:
        """Sets the momentum of the moving statistics, at most the encoder's own."""
        for layer in self._batch_normalizations():
            layer.momentum = min(self.image_encoder.batch_norm_momentum, limit)

    def build_optimizer(self) -> None:
        """Creates the optimizer's variables, unless they exist.

        Without an optimizer, the recipe "auto" is resolved for a run of unknown length.

        Raises:
            InputError: if the model is not compiled.
        """
        if not self.compiled:
            raise InputError("The model must be compiled. Call `compile()` first.")
        if self.optimizer is None:
            self.resolve_recipe(None, None)
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        optimizer = self.optimizer
        return {
            "optimizer": None
            if optimizer is None
            else keras.optimizers.serialize(optimizer),
            "optimizer_built": optimizer is not None and optimizer.built,
            "recipe": self.recipe,
            "is_fine_tuning": self.is_fine_tuning,
            "loss": keras.saving.serialize_keras_object(self.loss),
            "micro_batch_size": self.micro_batch_size,
            "loss_upper_bound": self.loss_upper_bound,
        }

    def compile_from_config(self, config: dict) -> None:
        config = dict(config)
        optimizer = config.pop("optimizer")
        if optimizer is not None:
            optimizer = keras.optimizers.deserialize(optimizer)
        # `compile` built the optimizers of files without this entry.
        is_built = config.pop("optimizer_built", True)
        recipe = config.pop("recipe", None)
        is_fine_tuning = config.pop("is_fine_tuning", False)
        # Files without a loss hold its options next to those of `compile`.
        options = {
            name: config.pop(name)
            for name in ContrastiveLoss.options()
            if name in config
        }
        loss = keras.saving.deserialize_keras_object(config.pop("loss", None))
        self.compile(optimizer, loss or ContrastiveLoss(**options), **config)
        self.recipe = recipe
        if is_built:
            # Keras then loads the variables from the file.
            self.build_optimizer()
        self.is_fine_tuning = is_fine_tuning

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: keras.callbacks.Callback | Sequence | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: object = None,
        sample_weight: object = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        *,
        augment: bool = True,
        value_range: tuple[float, float] | None = None,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit`, on images and captions as they are.

        Arguments are `keras.Model.fit`'s, but for

            x: images, with their captions in `y`; pairs as
                `align_keras.models.image_text_batches` takes them; a batched
                `tf.data.Dataset` of such tuples or dicts; or what is ready for the
                model: dicts of `images`, `token_ids` and `padding_mask`, whose further
                entries are left out. A `keras.utils.PyDataset`, a generator or a
                loader, such as torch's, gives batches of either: `(images, captions)`
                or dicts.
            y: captions, one for each image of `x`.
            batch_size: int or None, pairs a batch where `x` isn't batched; None for
                32. A last batch that isn't full is left out, unless it's the only one.
            validation_split: float in [0, 1), the share of the last pairs that are
                validated on; not for datasets.
            validation_data: as `x`, or a tuple of `x` and `y`.
            shuffle: bool, where `x` isn't batched.
            class_weight: None, as `sample_weight`: all pairs of a batch weigh alike.
            steps_per_epoch: pairs that aren't batched are then repeated without end.
            augment: bool; crop raw images at a random place, and mirror half of them.
            value_range: two floats, black and white of raw float images, such as
                (0, 1). Without it, they are refused.

        With the recipe "auto" (see `compile`), each call is a run of its own, with a
        warm-up and a decay to zero at its end. A later call keeps the optimizer's
        moments. `initial_epoch` goes on in the schedule of a run of `epochs`. Data of
        unknown length without `steps_per_epoch` has a constant rate after the warm-up.
        The choice is printed in one line, unless `verbose` is 0.

        Raises:
            InputError: if an argument isn't as above, an image can't be read, or
                inputs have wrong names, dtypes or shapes.
            NonFiniteStepError: at the first loss or gradient that isn't finite, and
                at a loss above `loss_upper_bound`. The model is then as it was
                before that step.

        References:
            Jia et al. 2021, section 5 (resize, random crop, horizontal flip).
        """
        fit_arguments.check_weights(
            class_weight=class_weight, sample_weight=sample_weight
        )
        if validation_split and validation_data is None:
            x, y, validation_data = fit_arguments.split_pairs(x, y, validation_split)
        options = {
            "training": True,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "repeat": steps_per_epoch is not None,
            "augment": augment,
        }
        # `callbacks` is a callback, a list of them or a `CallbackList` of Keras.
        callbacks = getattr(callbacks, "callbacks", callbacks)
        with fit_inputs.readable_input(self, x, y, value_range, **options) as batches:
            if validation_data is not None:
                pairs = fit_arguments.as_x_and_y(validation_data)
                validation_data = fit_inputs.keras_input(
                    self,
                    *pairs,
                    batch_size=validation_batch_size or batch_size,
                    value_range=value_range
                    if fit_arguments.is_raw_data(*pairs)
                    else None,
                )
            self._prepare_run(
                fit_arguments.steps_of_epoch(batches, batch_size, steps_per_epoch),
                fit_arguments.pairs_of_step(x, y, batches, batch_size),
                epochs,
                initial_epoch,
                verbose,
            )
            return super().fit(
                batches,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                # Keras flattens nested lists.
                callbacks=[StopAtNonFinite(), callbacks or []],
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
                # Keras warns about True if the batches are a dataset.
                shuffle=shuffle and not isinstance(batches, tf.data.Dataset),
            )

    def _prepare_run(
        self,
        steps_per_epoch: int | None,
        batch_size: int | None,
        epochs: int,
        initial_epoch: int,
        verbose: int | str,
    ) -> None:
        """Resolves the recipe, and warns of a warm-up that is longer than the run."""
        if not self.compiled:
            return  # Keras raises.
        steps = None
        initial_step = 0
        if steps_per_epoch is not None:
            steps = epochs * steps_per_epoch
            initial_step = initial_epoch * steps_per_epoch
        resolved = self.resolve_recipe(steps, batch_size, initial_step)
        if resolved is not None and verbose != 0:
            say(str(resolved))
        if resolved is None and steps is not None:
            optimizer = inner_optimizer(self.optimizer)
            end = int(optimizer.iterations.numpy()) + steps - initial_step
            warning = warmup_warning(optimizer, end)
            if warning is not None:
                say(warning)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: object = None,
        steps: int | None = None,
        callbacks: keras.callbacks.Callback | Sequence | None = None,
        return_dict: bool = False,
        value_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> list[float] | dict[str, float]:
        """Measures as `keras.Model.evaluate`. It takes raw pairs too (see `fit`)."""
        known = parameters_of(ContrastiveModel.evaluate)
        refuse_unknown("evaluate", kwargs, [*known, "_use_cached_eval_dataset"])
        fit_arguments.check_weights(sample_weight=sample_weight)
        with fit_inputs.readable_input(
            self, x, y, value_range, batch_size=batch_size
        ) as batches:
            return super().evaluate(
                batches,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: keras.callbacks.Callback | Sequence | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> dict:
        """Computes as `keras.Model.predict`. It takes raw pairs too (see `fit`)."""
        with fit_inputs.readable_input(
            self, x, value_range=value_range, batch_size=batch_size
        ) as batches:
            return super().predict(batches, batch_size, verbose, steps, callbacks)

    @property
    def metrics(self) -> list:
        return self.loss_metrics

    def train_step(self, data: dict) -> dict:
        """Makes one update on a batch of `images`, `token_ids` and `padding_mask`."""
        input_checks.check_data(self, data)
        check_weight_dtypes(self.optimizer, self.trainable_variables)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        before = self.forward_state.read()
        self.forward_state.part_replicas()
        if self.micro_batch_size is None:
            losses, gradients = loss_gradients(self, inputs)
        else:
            losses, gradients = cached_loss_gradients(
                self, inputs, self.micro_batch_size
            )
        sums = reduce_over_replicas("SUM", [*gradients, *losses])
        gradients, losses = sums[: len(gradients)], tuple(sums[len(gradients) :])
        losses = tuple(loss / replica_count() for loss in losses)
        variables = self.trainable_variables
        norms = gradient_norms(self.optimizer, variables, gradients)
        loss = self.loss.total(*losses)
        finite = is_finite_step(self.optimizer, loss, norms[0], self.loss_upper_bound)
        gradients = take_summed_gradients(self.optimizer, gradients, replica_count())
        apply_if(finite, self.optimizer, gradients, variables)
        self.forward_state.settle(before, finite)
        return self.update_loss_metrics(losses, norms, finite)

    def update_loss_metrics(
        self,
        losses: Sequence[tf.Tensor],
        norms: Sequence = (0, 0, 0),
        finite: tf.Tensor | bool = True,
    ) -> dict:
        """Updates the running means and returns them by name.

        A step that isn't finite doesn't change the means. Its own values are returned,
        with NaN as its `loss`.
        """
        details = [*losses, self.temperature, *norms]
        (metric,) = self.loss_metrics
        metric.update_state([self.loss.total(*losses), *details], finite)
        means = metric.result()
        values_of_bad_step = [float("nan"), *details]
        return {
            name: tf.where(finite, mean, value)
            for (name, mean), value in zip(
                means.items(), values_of_bad_step, strict=True
            )
        }

    def test_step(self, data: dict) -> dict:
        input_checks.check_data(self, data)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        outputs = self(inputs, training=False)
        losses = self.loss.replica_losses(
            outputs["image_embedding"],
            outputs["text_embedding"],
            self.temperature,
            inputs["token_ids"],
        )
        means = self.update_loss_metrics(losses)
        return {name: means[name] for name in means if name not in GRADIENT_NORMS}

    def predict_step(self, data: dict) -> dict:
        input_checks.check_data(self, data)
        return super().predict_step(data)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the training function, which also measures the wait for input."""
        # Variables that are created in the first step would cause a second trace.
        self.build_optimizer()
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = self._make_timed_function(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        """Makes the test function, which doesn't average metrics that are equal."""
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self._make_timed_function(self.test_step)

    def _make_timed_function(self, step_function: Callable) -> Callable:
        strategy = self.distribute_strategy

        @tf.function(reduce_retracing=True, jit_compile=self.jit_compile)
        @tf.autograph.experimental.do_not_convert
        def step(data: dict) -> dict:
            outputs = strategy.run(step_function, args=(data,))
            # The metrics are equal on all replicas.
            return {
                name: strategy.experimental_local_results(value)[0]
                for name, value in outputs.items()
            }

        def function(iterator: Any) -> dict:
            if self.steps_to_skip:
                self.steps_to_skip -= 1
                return self.get_metrics_result()
            is_python = not isinstance(iterator, _ITERATORS)
            if not is_python and not step.experimental_get_tracing_count():
                _trace(step, iterator.element_spec)
            # Reading a batch and the step are two graphs, so that each can be timed.
            start = time.perf_counter()
            data = next(iterator) if is_python else _get_next(iterator)
            self.seconds_waited += time.perf_counter() - start
            return step(data)

        return function

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing. Keras's method fails on strings within a strategy."""


def check_compile_arguments(arguments: dict) -> None:
    """Raises for metrics, for options of the loss, and for unknown arguments."""
    for name in _UNSUPPORTED:
        if arguments.get(name) is not None:
            raise InputError(
                f"{name} can't be given, received {arguments[name]!r}. ALIGN reports "
                "its loss, the parts of the loss and the temperature. Measure other "
                "metrics after fit or in a callback, as by align_keras.recall_at_k."
            )
    for name in ContrastiveLoss.options():
        if name in arguments:
            raise InputError(
                f"{name} is an option of the loss, received {arguments[name]!r}. Write "
                f"compile(loss=align_keras.losses.ContrastiveLoss({name}="
                f"{arguments[name]!r}))."
            )
    functions = (ContrastiveModel.compile, keras.Model.compile)
    known = [name for function in functions for name in parameters_of(function)]
    refuse_unknown("compile", arguments, [*known, *ContrastiveLoss.options()])


@tf.function(reduce_retracing=True)
def _get_next(iterator: Any) -> Any:
    return iterator.get_next()


def _trace(step: Any, spec: Any) -> None:
    """Traces the step while the input fills its buffers for the first batch."""
    if all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec, True)):
        step.get_concrete_function(spec)


# === Metrics, and the stop at a step that isn't finite ===


class LossMetrics(keras.metrics.Metric):
    """Means of losses, temperature and norms of gradients, in one variable."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        super().__init__(name="loss")
        self.parts = parts
        self.names = ("loss", *parts, "temperature", *GRADIENT_NORMS)
        # The first two entries count the steps, and the steps with finite norms.
        self.sums = self.add_variable(
            (len(self.names) + 2,),
            "zeros",
            aggregation="only_first_replica",  # All replicas add the same values.
            name="sums",
        )

    def update_state(self, values: list, finite: tf.Tensor | bool = True) -> None:
        """Adds one step's values, in the order of `names`, if it is finite."""
        values = ops.stack([ops.cast(value, self.sums.dtype) for value in values])
        losses, norms = ops.split(values, [len(self.names) - len(GRADIENT_NORMS)])
        # A step whose scaled gradient overflowed counts, but its norms are left out.
        has_norms = ops.all(ops.isfinite(norms))
        norms = ops.where(has_norms, norms, ops.zeros_like(norms))
        counts = [ops.ones_like(losses[0]), ops.cast(has_norms, losses.dtype)]
        step = ops.concatenate([ops.stack(counts), losses, norms])
        self.sums.assign_add(ops.where(finite, step, ops.zeros_like(step)))

    def result(self) -> dict:
        steps, with_norms, *sums = ops.unstack(self.sums, len(self.names) + 2)
        return {
            name: total
            / ops.maximum(with_norms if name in GRADIENT_NORMS else steps, 1)
            for name, total in zip(self.names, sums, strict=True)
        }


class NonFiniteStepError(InputError):
    """Error of a loss or a gradient that isn't finite, or a loss above its bound.

    Args:
        step: int, the update that wasn't made, counted from 1.
        values: dict, the metrics of that step, with NaN as `loss`.
        bound: float, `loss_upper_bound`, or None.
    """

    def __init__(
        self, step: int, values: dict[str, float], bound: float | None
    ) -> None:
        self.step = step
        self.values = values
        ignored = ("loss", *GRADIENT_NORMS)
        losses = [value for name, value in values.items() if name not in ignored]
        self.loss_is_finite = all(map(math.isfinite, losses))
        if not self.loss_is_finite:
            rule = "the loss isn't finite"
        elif not math.isfinite(values["gradient_norm"]):
            rule = "a gradient isn't finite"
        else:
            rule = f"the loss is above loss_upper_bound ({bound})"
        super().__init__(
            f"step {step}: {rule}, and its update wasn't made. Lower the learning "
            "rate, lengthen the warm-up, clip the gradients (global_clipnorm), or look "
            "for broken pairs in that batch."
        )


class StopAtNonFinite(keras.callbacks.Callback):
    """Raises `NonFiniteStepError` at the first step whose update can't be made."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        if math.isfinite(values["loss"]):
            return
        step = int(self.model.optimizer.iterations.numpy()) + 1
        raise NonFiniteStepError(step, values, self.model.loss_upper_bound)

"""Training of the dual encoder: `compile`, `fit`, `evaluate` and their steps."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_hub
import tensorflow as tf
from keras import ops

from align_keras.data.fit_input import (
    as_x_and_y,
    check_weights,
    explained_read_errors,
    fit_input,
    split_pairs,
)
from align_keras.data.model_inputs import (
    check_compared_pairs,
    check_data,
    check_loss_inputs,
    empty_data_error,
)
from align_keras.data.raw_pairs import raw_pairs
from align_keras.losses.contrastive_loss import ContrastiveLoss
from align_keras.losses.cross_replica import (
    gather_replicas,
    reduce_over_replicas,
    replica_count,
)
from align_keras.losses.pair_loss import PairLoss, as_pair_loss
from align_keras.models.compilation import model_inputs, resolve_jit_compile
from align_keras.models.fit_callbacks import (
    FitCallback,
    StopAtNonFinite,
    ValidationPairs,
    all_callbacks,
    with_progress,
)
from align_keras.models.gradients import (
    ForwardState,
    batch_gradients,
    check_micro_batches,
    check_weight_dtypes,
    gradient_norms,
    is_finite_step,
)
from align_keras.models.lora import has_factors
from align_keras.models.loss_metrics import GRADIENT_NORMS, LossMetrics
from align_keras.models.recipe import choose_optimizer, limit_batch_norm_momentum
from align_keras.models.step_function import step_function
from align_keras.optimizers import apply_if
from align_keras.optimizers.recipes import (
    ResolvedRecipe,
    check_recipe,
    paper_optimizer,
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

# Arguments of `keras.Model.compile` that this model doesn't support.
_UNSUPPORTED = ("loss_weights", "metrics", "weighted_metrics")
# Key of the other arguments of `compile` in the configuration of the loss.
_COMPILE_OPTIONS = "compile_options"


class ContrastiveModel(keras_hub.models.Task):
    """Base class of `ALIGN` that implements `compile`, `fit` and the training step.

    `fit`, `evaluate` and `predict` convert raw pairs before they call the methods of
    `keras.Model`. The methods of `keras_hub.models.Task` would pass the captions as
    labels and would not shuffle.
    """

    loss_metrics: list[LossMetrics]
    fit_callbacks: list[FitCallback]
    # Pairs of the validation of `fit` that is in progress.
    validation_pairs: ValidationPairs | None
    # Number of steps of the next epoch that an interrupted run has completed.
    steps_to_skip: int
    # `keras.Model` defines these attributes.
    train_function: Callable | None
    test_function: Callable | None

    # === Steps ===

    def train_step(self, data: dict) -> dict:
        """Makes one update on a batch of `images`, `token_ids` and `padding_mask`."""
        inputs = self._inputs_of(data)
        before = self.forward_state.start_step()
        losses, gradients = batch_gradients(self, inputs)
        norms = gradient_norms(self, gradients)
        finite = is_finite_step(self, losses, norms)
        gradients = take_summed_gradients(self.optimizer, gradients, replica_count())
        apply_if(finite, self.optimizer, gradients, self.trainable_variables)
        self.forward_state.end_step(before, finite)
        return self.update_loss_metrics(losses, norms, finite)

    def test_step(self, data: dict) -> dict:
        return self._evaluate_batch(data)[0]

    def _evaluate_batch(self, data: dict) -> tuple[dict, tuple]:
        """Returns the metrics of a batch, and the arguments of `ValidationPairs.add`.

        These arguments have the rows of all replicas.
        """
        inputs = self._inputs_of(data)
        outputs = self(model_inputs(self, inputs), training=False)
        losses = self.loss.batch_losses(
            outputs["image_embedding"],
            outputs["text_embedding"],
            self.temperature,
            inputs,
        )
        losses = tuple(reduce_over_replicas("MEAN", list(losses)))
        # As in Keras, a smaller last batch has less weight.
        rows = ops.shape(inputs["images"])[0]
        means = self.update_loss_metrics(losses, rows=rows)
        for name in GRADIENT_NORMS:
            del means[name]
        is_token = tf.cast(inputs["padding_mask"], tf.bool)
        tokens = tf.where(is_token, tf.cast(inputs["token_ids"], tf.int32), -1)
        pairs = (outputs["image_embedding"], outputs["text_embedding"], tokens)
        return means, tuple(gather_replicas(rows)[0] for rows in pairs)

    def predict_step(self, data: dict) -> dict:
        check_data(self, data)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        return self(model_inputs(self, inputs), training=False)

    def _inputs_of(self, data: dict) -> dict:
        """Returns the inputs of a batch, which has all that the model and loss need."""
        check_data(self, data)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        check_loss_inputs(self.loss, inputs)
        return inputs

    @property
    def metrics(self) -> list:
        return self.loss_metrics

    def update_loss_metrics(
        self,
        losses: Sequence[tf.Tensor],
        norms: Sequence = (0, 0, 0),
        finite: tf.Tensor | bool = True,
        rows: tf.Tensor | int = 1,
    ) -> dict:
        """Updates the running means of the metrics and returns them by name.

        A step that isn't finite doesn't change the means. In this case the method
        returns the values of the step instead of the means, with NaN as `loss`. With
        `steps_per_execution` above 1, Keras returns only the values of the last step,
        so the mean of `loss` becomes NaN. `rows` is the weight of the step.
        """
        details = [*losses, self.temperature, *norms]
        (metric,) = self.loss_metrics
        loss = self.loss.total(*losses)
        if self.steps_per_execution > 1:
            loss = tf.where(finite, loss, float("nan"))
            metric.update_state([loss, *details], weight=rows)
            return metric.result()
        metric.update_state([loss, *details], finite, rows)
        means = metric.result()
        values_of_bad_step = [float("nan"), *details]
        return {
            name: tf.where(finite, mean, value)
            for (name, mean), value in zip(
                means.items(), values_of_bad_step, strict=True
            )
        }

    # === Functions of Keras that call the steps ===

    def make_train_function(self, force: bool = False) -> None:
        """Creates the training function, which also measures the wait for input."""
        # Variables that are created in the first step would cause a second trace.
        self.build_optimizer()
        check_weight_dtypes(self.optimizer, self.trainable_variables)
        # Layers may have been frozen since `compile`.
        self.forward_state = ForwardState(self)
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_train_function(force)
        elif self.train_function is None or force:
            run_step = step_function(self, self.train_step, self._show_batch)

            def train_function(iterator: Any) -> dict:
                if self.steps_to_skip:
                    self.steps_to_skip -= 1
                    return self.get_metrics_result()
                return run_step(iterator)

            self.train_function = train_function

    def make_test_function(self, force: bool = False) -> None:
        """Creates the test function, which also collects the validation pairs."""
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_test_function(force)
        elif self.test_function is None or force:
            evaluate_batch = step_function(self, self._evaluate_batch)

            def test_function(iterator: Any) -> dict:
                metrics, pairs = evaluate_batch(iterator)
                if self.validation_pairs is not None:
                    self.validation_pairs.add(*[rows.numpy() for rows in pairs])
                return metrics

            self.test_function = test_function

    def _show_batch(self, batch: Any) -> None:
        for callback in self.fit_callbacks:
            callback.on_fit_batch(batch)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing. The method of Keras fails for strings under a strategy."""

    # === Training and evaluation ===

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
        """Trains the model on images and captions.

        With the recipe "auto" (see `compile`), each call has a complete schedule, with
        a warm-up at its start and a decay to zero at its end. A later call keeps the
        moments of the optimizer. `initial_epoch` continues the schedule of a run of
        `epochs`. If the length of the data is unknown and `steps_per_epoch` is None,
        the learning rate stays constant after the warm-up. Unless `verbose` is 0, one
        line reports these settings. `align_keras.training.TrainingDoctor`, a callback,
        prints problems of the training.

        The progress bar has the loss and the temperature. `History` and the callbacks
        receive all metrics. With `validation_data` they include `val_recall_at_10`, the
        recall from captions to images over the first 5,000 validation pairs, and
        `val_chance_recall_at_10`, that of a random ranking. Both are left out with
        `steps_per_execution` above 1 or `run_eagerly`.

        Args:
            x: one of the following. (1) Images, with their captions in `y`. (2) Pairs
                that `align_keras.models.image_text_batches` accepts. (3) A batched
                `tf.data.Dataset` of pairs, tuples or dicts. (4) Inputs of the model,
                a dict or a dataset of dicts with `images`, `token_ids` and
                `padding_mask`, and `image_ids` int (n,) for a loss with
                `share_equal_images`. Other entries are ignored. (5) A
                `keras.utils.PyDataset`, a generator or a loader, such as torch's, of
                batches `(images, captions)` or of dicts.
            y: captions, one for each image of `x`.
            batch_size: pairs per batch if `x` isn't batched. None means
                32. The last batch is dropped if it isn't full, unless it is the only
                one. The loss of the paper needs at least 2 pairs.
            epochs: number of epochs.
            verbose: as in `keras.Model.fit`. 0 prints nothing.
            callbacks: callback, list of callbacks, or None.
            validation_split: in [0, 1), fraction of the pairs to validate on,
                taken from the end. It must be 0 for datasets.
            validation_data: data like `x`, or a tuple of `x` and `y`.
            shuffle: shuffle the pairs if `x` isn't batched.
            class_weight: None. All pairs of a batch have the same weight.
            sample_weight: None, for the same reason.
            initial_epoch: epoch at which to start, for resuming.
            steps_per_epoch: int or None. With an int, pairs that aren't batched are
                repeated without end.
            validation_steps: as in `keras.Model.fit`.
            validation_batch_size: int or None. None uses `batch_size`.
            validation_freq: as in `keras.Model.fit`.
            augment: crop raw images at a random position and mirror half of them.
            value_range: two floats, black and white of raw float images, such as
                (0, 1). None refuses float images.

        Returns:
            `keras.callbacks.History`.

        Raises:
            InputError: if an argument has the wrong type or value, an image can't be
                read, or inputs have wrong names, dtypes or shapes.
            NonFiniteStepError: if a loss or a gradient isn't finite, or a loss is above
                `loss_upper_bound`. The model is in the state before that step.

        References:
            Jia et al. 2021, section 5 (resize, random crop, horizontal flip).
        """
        check_weights(class_weight=class_weight, sample_weight=sample_weight)
        if validation_split and validation_data is None:
            x, y, validation_data = split_pairs(x, y, validation_split)
        callback_list = all_callbacks(callbacks)
        self.fit_callbacks = [
            callback for callback in callback_list if isinstance(callback, FitCallback)
        ]
        for callback in self.fit_callbacks:
            callback.on_fit_data(x, y, validation_data)
        stop = StopAtNonFinite()
        with explained_read_errors(self, x, y, value_range):
            training = fit_input(
                self,
                x,
                y,
                training=True,
                batch_size=batch_size,
                shuffle=shuffle,
                repeat=steps_per_epoch is not None,
                augment=augment,
                value_range=value_range,
            )
            if validation_data is not None:
                validation_data = fit_input(
                    self,
                    *as_x_and_y(validation_data),
                    batch_size=validation_batch_size or batch_size,
                    value_range=value_range,
                ).batches
            check_compared_pairs(self.loss, training.pairs_per_step)
            self._prepare_run(
                steps_per_epoch or training.steps_per_epoch,
                training.pairs_per_step,
                epochs,
                initial_epoch,
                verbose,
            )
            history = keras.Model.fit(
                self,
                training.batches,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=[stop, *with_progress(callback_list, verbose)],
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
                # Keras warns if `shuffle` is True for a dataset.
                shuffle=shuffle and not isinstance(training.batches, tf.data.Dataset),
            )
        if not stop.has_steps and initial_epoch < epochs:
            raise empty_data_error(x)
        return history

    def _prepare_run(
        self,
        steps_per_epoch: int | None,
        batch_size: int | None,
        epochs: int,
        initial_epoch: int,
        verbose: int | str,
    ) -> None:
        """Chooses the optimizer, and warns if the warm-up is longer than the run."""
        if not self.compiled:
            # `keras.Model.fit` raises an error for this case.
            return
        steps = None
        initial_step = 0
        if steps_per_epoch is not None:
            steps = epochs * steps_per_epoch
            initial_step = initial_epoch * steps_per_epoch
        resolved = choose_optimizer(self, steps, batch_size, initial_step)
        message = None if resolved is None else str(resolved)
        if resolved is None and steps is not None:
            optimizer = inner_optimizer(self.optimizer)
            end = int(optimizer.iterations.numpy()) + steps - initial_step
            message = warmup_warning(optimizer, end)
        if message is not None and (resolved is None or verbose != 0):
            say(message)

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
        """Returns the losses and metrics, as `keras.Model.evaluate`.

        The data may be raw pairs or model inputs, as in `fit`. The losses are means
        over the rows of all batches. Under a strategy, all replicas must have the same
        number of rows in each batch.
        """
        argument_names = parameters_of(ContrastiveModel.evaluate)
        refuse_unknown(
            "evaluate", kwargs, [*argument_names, "_use_cached_eval_dataset"]
        )
        check_weights(sample_weight=sample_weight)
        is_validation = kwargs.get("_use_cached_eval_dataset", False)
        self.validation_pairs = ValidationPairs() if is_validation else None
        if not is_validation:
            callbacks = with_progress(all_callbacks(callbacks), verbose)
        with explained_read_errors(self, x, y, value_range):
            data = fit_input(self, x, y, batch_size=batch_size, value_range=value_range)
            logs = keras.Model.evaluate(
                self,
                data.batches,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )
        if not self.loss_metrics[0].count():
            raise empty_data_error(x)
        if self.validation_pairs is not None:
            logs.update(self.validation_pairs.recall())
            self.validation_pairs = None
        return logs

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: keras.callbacks.Callback | Sequence | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> dict:
        """Returns the outputs of the model, as `keras.Model.predict`.

        The data may be raw pairs or model inputs, as in `fit`.
        """
        with explained_read_errors(self, x, None, value_range):
            data = fit_input(
                self,
                x,
                batch_size=batch_size,
                value_range=value_range,
                with_loss_inputs=False,
            )
            return keras.Model.predict(
                self, data.batches, batch_size, verbose, steps, callbacks
            )

    def preprocess_samples(
        self, x: Any, y: Any = None, sample_weight: Any = None
    ) -> Any:
        """Converts raw pairs without augmentation, and returns other data unchanged.

        The methods `train_on_batch`, `test_on_batch` and `predict_on_batch` of KerasHub
        call this method.
        """
        check_weights(sample_weight=sample_weight)
        pairs = raw_pairs(x, y)
        if pairs is None or self.preprocessor is None:
            inputs = keras.utils.pack_x_y_sample_weight(x, y)
            check_data(self, inputs)
            return inputs
        images, captions = pairs
        return self.preprocessor(images, y=captions)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: object = None,
        class_weight: object = None,
        **kwargs: Any,
    ) -> list[float] | dict[str, float]:
        """Makes one update on a batch of raw pairs or of model inputs."""
        check_weights(class_weight=class_weight)
        data = self.preprocess_samples(x, y, sample_weight)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        check_compared_pairs(self.loss, len(inputs["images"]))
        return super().train_on_batch(inputs, **kwargs)

    # === Optimizer and loss ===

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
        """Configures the optimizer and the loss.

        `fit` and `build_optimizer` create the variables of the optimizer. A model that
        only computes embeddings doesn't allocate them.

        Args:
            optimizer: Keras optimizer, or None to use `recipe`.
            loss: `align_keras.losses.PairLoss`, or a function of
                `(image_embeddings, text_embeddings, temperature)` that returns a float
                tensor, a scalar or (n,). The function receives the rows of all
                replicas. None uses `align_keras.losses.ContrastiveLoss`.
            recipe: `"auto"`, `"paper"` or None, the optimizer and its schedule if
                `optimizer` is None. `"auto"`, the default, is `Muon` with a learning
                rate that depends on the batch size, a warm-up over a tenth of the run
                and a cosine decay. `fit` knows the number of steps, so it chooses the
                settings and prints them in one line. If the weights are random and the
                learned temperature is 1.0, the initial value of the paper, training
                starts from a temperature of 0.1. `"paper"` is `Lamb` with the schedule
                of the paper, 1,200,000 steps.
            micro_batch_size: number of pairs that a replica embeds at a
                time to save memory. The loss is that of the whole batch. A step takes
                about a third longer.
            loss_upper_bound: float or None. A loss above this value stops `fit` before
                the update. A loss or a gradient that isn't finite always stops it.
            **kwargs: arguments of `keras.Model.compile`: `jit_compile`,
                `run_eagerly`, `steps_per_execution`, `auto_scale_loss`. Metrics can't
                be added.

        Raises:
            InputError: if an argument is unknown or has the wrong type or value.

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
        kwargs["jit_compile"] = resolve_jit_compile(
            kwargs.get("jit_compile", False), self.distribute_strategy
        )
        if optimizer is None:
            recipe = recipe or "auto"
            optimizer = paper_optimizer() if recipe == "paper" else None
        self.recipe = recipe
        self.resolved_recipe: ResolvedRecipe | None = None
        # `choose_optimizer` sets this to True if the first run starts from trained
        # weights.
        self.is_fine_tuning = False
        self._auto_scale_loss = kwargs.get("auto_scale_loss", True)
        super().compile(optimizer=optimizer, **kwargs)
        if optimizer is not None:
            replicas = self.distribute_strategy.num_replicas_in_sync
            check_clipping(self.optimizer, replicas)
        # A recipe of an earlier `compile` may have lowered the momentum.
        limit_batch_norm_momentum(self, 1.0)
        self.loss = loss
        if self.loss_metrics[0].parts != loss.parts:
            self.loss_metrics = [LossMetrics(loss.parts)]
        self.micro_batch_size = micro_batch_size
        self.loss_upper_bound = loss_upper_bound
        self.forward_state = ForwardState(self)
        self.seconds_waited = 0.0
        self.fit_callbacks = []
        self.validation_pairs = None
        self.steps_to_skip = 0

    def set_optimizer(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Replaces the optimizer. Keras wraps it if the loss must be scaled."""
        super().compile(
            optimizer=optimizer,
            run_eagerly=self.run_eagerly,
            jit_compile=self.jit_compile,
            steps_per_execution=self.steps_per_execution,
            auto_scale_loss=self._auto_scale_loss,
        )
        check_clipping(self.optimizer, self.distribute_strategy.num_replicas_in_sync)

    def build_optimizer(self) -> None:
        """Creates the variables of the optimizer if they don't exist yet.

        If the optimizer isn't chosen yet, the recipe "auto" is resolved for a run of
        unknown length.
        """
        if self.optimizer is None:
            choose_optimizer(self, None, None)
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict | None:
        """Returns the arguments of `compile` that differ from their defaults.

        The entry of the loss contains the arguments that only `ALIGN.compile` has,
        because `keras.models.clone_model` passes all entries to the `compile` of Keras.

        A `.keras` file of a model with LoRA contains merged kernels. The moments of the
        optimizer belong to the factors, so the optimizer is left out.
        """
        if not self.compiled:
            return None
        config: dict[str, Any] = {}
        options: dict[str, Any] = {}
        if self.optimizer is not None and not has_factors(self):
            config["optimizer"] = keras.optimizers.serialize(self.optimizer)
            options["optimizer_built"] = self.optimizer.built
            options["recipe"] = self.recipe
            options["is_fine_tuning"] = self.is_fine_tuning
        if self.micro_batch_size is not None:
            options["micro_batch_size"] = self.micro_batch_size
        if self.loss_upper_bound is not None:
            options["loss_upper_bound"] = self.loss_upper_bound
        loss = keras.saving.serialize_keras_object(self.loss)
        is_default = loss == keras.saving.serialize_keras_object(ContrastiveLoss())
        if options or not is_default:
            config["loss"] = {**loss, _COMPILE_OPTIONS: options}
        return config

    def compile_from_config(self, config: dict) -> None:
        loss_config = dict(config.get("loss") or {})
        options = dict(loss_config.pop(_COMPILE_OPTIONS, {}))
        is_built = options.pop("optimizer_built", False)
        recipe = options.pop("recipe", "auto")
        is_fine_tuning = options.pop("is_fine_tuning", False)
        optimizer = config.get("optimizer")
        if optimizer is not None:
            optimizer = keras.optimizers.deserialize(optimizer)
        loss = keras.saving.deserialize_keras_object(loss_config or None)
        self.compile(optimizer, loss or ContrastiveLoss(), **options)
        self.recipe = recipe
        if is_built:
            # Keras loads the variables of the file into the built optimizer.
            self.build_optimizer()
        self.is_fine_tuning = is_fine_tuning


def check_compile_arguments(arguments: dict) -> None:
    """Raises if `compile` gets metrics or unknown arguments."""
    for name in _UNSUPPORTED:
        if arguments.get(name) is not None:
            raise InputError(
                f"{name} must be None. Received: {name}={arguments[name]!r}. ALIGN "
                "reports its loss, the parts of the loss and the temperature. Compute "
                "other metrics after fit or in a callback, such as with "
                "align_keras.recall_at_k."
            )
    functions = (ContrastiveModel.compile, keras.Model.compile)
    argument_names = [
        name for function in functions for name in parameters_of(function)
    ]
    refuse_unknown("compile", arguments, argument_names)

"""How a dual encoder is trained: loss, step, and Keras's fit on raw pairs."""

import time

import keras
import tensorflow as tf

from align_keras.losses.caption_groups import caption_groups
from align_keras.losses.contrastive_loss import (
    check_loss_arguments,
    directional_losses,
    reduce_directions,
)
from align_keras.losses.cross_replica import replica_count, sum_over_replicas
from align_keras.models.forward_state import ForwardState
from align_keras.models.gradients import (
    cached_loss_gradients,
    check_micro_batches,
    loss_gradients,
)
from align_keras.models.keras_input import (
    as_list,
    as_x_and_y,
    check_data,
    check_weights,
    is_raw_data,
    keras_input,
    readable_input,
    split_pairs,
)
from align_keras.models.loss_metrics import LOSSES
from align_keras.models.one_step import next_batch, one_step
from align_keras.models.raw_pairs import raw_pairs
from align_keras.models.sound_steps import SoundSteps
from align_keras.models.update_checks import gradient_norms, is_sound
from align_keras.optimizers import Lamb, apply_if, paper_schedule
from align_keras.optimizers.replica_gradients import (
    check_clipping,
    take_summed_gradients,
)
from align_keras.utils.arguments import parameters_of, refuse_unknown
from align_keras.utils.errors import InputError

# What Keras's `compile` takes for other models' sake.
_BUILT_IN = ("loss", "loss_weights", "metrics", "weighted_metrics")


class ContrastiveModel(keras.Model):
    """What `ALIGN` inherits: `compile`, `train_step`, `fit` and their kin.

    A subclass calls to outputs with `image_embedding` and `text_embedding`, and
    has `image_encoder`, `text_encoder`, `temperature`, `loss_metrics` (a list of
    one `LossMetrics`), `tokenizer` and `image_size`.
    """

    def compile(
        self,
        optimizer=None,
        *,
        label_smoothing=0.1,
        reduction="sum",
        share_equal_captions=False,
        negatives_fraction=1.0,
        tile_size=None,
        matmul_dtype=None,
        micro_batch_size=None,
        loss_upper_bound=None,
        **kwargs,
    ):
        """Sets the optimizer and the loss; the defaults are the paper's.

        Args:
            optimizer: Keras optimizer. By default `Lamb` with the paper's
                schedule: 10k steps of warm-up to 1e-3, then linearly to zero
                in 1.2M steps.
            label_smoothing: float in [0, 1].
            reduction: `"sum"` or `"mean"` of both directions.
            share_equal_captions: bool; pairs of a batch whose captions are
                equal are each other's positives.
            negatives_fraction: float, as `contrastive_loss`.
            tile_size: int, `"auto"` or None, as `contrastive_loss`.
            matmul_dtype: None or `"bfloat16"`, as `contrastive_loss`.
            micro_batch_size: int or None; pairs that a replica embeds at a time.
                The loss is that of the whole batch, the memory that of a
                micro-batch, the time about a third more.
            loss_upper_bound: float or None; a loss above it stops `fit`, as a loss
                or a gradient that isn't finite always does. The update that would
                have followed isn't made.
            **kwargs: as `keras.Model.compile`: `jit_compile`, `run_eagerly`,
                `steps_per_execution`, `auto_scale_loss`. Losses and metrics can't be
                given: they are built in.

        Raises:
            InputError: if an argument isn't as above.

        References:
            Jia et al. 2021, section 5.
        """
        check_loss_arguments(
            label_smoothing, reduction, tile_size, negatives_fraction, matmul_dtype
        )
        check_micro_batches(self, micro_batch_size)
        check_compile_arguments(kwargs, parameters_of(ContrastiveModel.compile))
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer or Lamb(paper_schedule()), **kwargs)
        # Variables made inside the first step would make it trace twice.
        self.optimizer.build(self.trainable_variables)
        check_clipping(self.optimizer, self.distribute_strategy.num_replicas_in_sync)
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.share_equal_captions = share_equal_captions
        self.negatives_fraction = negatives_fraction
        self.tile_size = tile_size
        self.matmul_dtype = matmul_dtype
        self.micro_batch_size = micro_batch_size
        self.loss_upper_bound = loss_upper_bound
        self.forward_state = ForwardState(self)
        self.seconds_waited = 0.0
        # Steps of the next epoch of `fit` that were made before a restart.
        self.steps_to_skip = 0

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "share_equal_captions": self.share_equal_captions,
            "negatives_fraction": self.negatives_fraction,
            "tile_size": self.tile_size,
            "matmul_dtype": self.matmul_dtype,
            "micro_batch_size": self.micro_batch_size,
            "loss_upper_bound": self.loss_upper_bound,
        }

    def compile_from_config(self, config):
        optimizer = keras.optimizers.deserialize(config["optimizer"])
        self.compile(**{**config, "optimizer": optimizer})

    @property
    def metrics(self):
        return self.loss_metrics

    def embedding_losses(self, image_embedding, text_embedding, token_ids):
        """Returns `(loss_i2t, loss_t2i)` of this replica's rows."""
        return directional_losses(
            image_embedding,
            text_embedding,
            self.temperature,
            label_smoothing=self.label_smoothing,
            pair_groups=caption_groups(token_ids)
            if self.share_equal_captions
            else None,
            negatives_fraction=self.negatives_fraction,
            tile_size=self.tile_size,
            matmul_dtype=self.matmul_dtype,
        )

    def total_loss(self, loss_i2t, loss_t2i):
        """Returns the sum or the mean of both directions, by `reduction`."""
        return reduce_directions(loss_i2t, loss_t2i, self.reduction)

    def train_step(self, data):
        """One update on a batch of `images`, `token_ids` and `padding_mask`."""
        check_data(self, data)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        before = self.forward_state.read()
        self.forward_state.part_replicas()
        if self.micro_batch_size is None:
            losses, gradients = loss_gradients(self, inputs)
        else:
            losses, gradients = cached_loss_gradients(
                self, inputs, self.micro_batch_size
            )
        *gradients, loss_i2t, loss_t2i = sum_over_replicas([*gradients, *losses])
        losses = [loss / replica_count() for loss in (loss_i2t, loss_t2i)]
        variables = self.trainable_variables
        norms = gradient_norms(self.optimizer, variables, gradients)
        loss = self.total_loss(*losses)
        sound = is_sound(self.optimizer, loss, norms[0], self.loss_upper_bound)
        gradients = take_summed_gradients(self.optimizer, gradients, replica_count())
        apply_if(sound, self.optimizer, gradients, variables)
        self.forward_state.settle(before, sound)
        return self.update_loss_metrics(*losses, norms, sound)

    def update_loss_metrics(self, loss_i2t, loss_t2i, norms=(0, 0, 0), sound=True):
        """Feeds the running means and returns them by name.

        An unsound step isn't fed: its own values are returned, with `loss` NaN.
        """
        loss = self.total_loss(loss_i2t, loss_t2i)
        values = [loss, loss_i2t, loss_t2i, self.temperature, *norms]
        (metric,) = self.loss_metrics
        metric.update_state(values, sound)
        values[0] = float("nan")
        return {
            name: tf.where(sound, mean, value)
            for (name, mean), value in zip(metric.result().items(), values, strict=True)
        }

    def test_step(self, data):
        """The losses of a batch, without an update."""
        check_data(self, data)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        outputs = self(inputs, training=False)
        losses = self.embedding_losses(
            outputs["image_embedding"], outputs["text_embedding"], inputs["token_ids"]
        )
        means = self.update_loss_metrics(*losses)
        return {name: means[name] for name in LOSSES}

    def predict_step(self, data):
        """The outputs of a batch, as `call` gives them."""
        check_data(self, data)
        return super().predict_step(data)

    def make_train_function(self, force=False):
        """As Keras's; also adds up `seconds_waited`, how long steps lacked input."""
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = self._make_timed_function(self.train_step)

    def make_test_function(self, force=False):
        """As Keras's, which would average what all replicas have in common."""
        if self.steps_per_execution > 1 or self.run_eagerly:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self._make_timed_function(self.test_step)

    def _make_timed_function(self, step_function):
        step = one_step(self.distribute_strategy, step_function, self.jit_compile)

        def function(iterator):
            if self.steps_to_skip:
                self.steps_to_skip -= 1
                return self.get_metrics_result()
            start = time.perf_counter()
            data = next_batch(iterator)
            self.seconds_waited += time.perf_counter() - start
            return step(data)

        return function

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Does nothing: the functional model and its metrics are built.

        Keras would run a first batch through the train step, which costs a
        batch of the input and fails on strings under a strategy.
        """

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
        *,
        augment=True,
        value_range=None,
    ):
        """As `keras.Model.fit`, on images and captions as they are.

        Args:
            x: images, with their captions in `y`; a tuple `(images, captions)`, a dict
                of `image` and `caption`, or a list of pairs, each a tuple or such a
                dict, as `align_keras.data.image_text_batches` takes them; a batched
                `tf.data.Dataset` of such tuples or dicts, of paths, encoded images or
                pixels; or what is ready for the model, in any form that Keras takes:
                dicts of `images`, `token_ids` and `padding_mask`.
            y: captions, one for each image of `x`.
            batch_size: int or None, pairs a batch where `x` isn't batched; None for
                32. A last batch that isn't full is left out, unless it's the only one.
            epochs: as `keras.Model.fit`.
            verbose: as `keras.Model.fit`.
            callbacks: a callback or a list of them.
            validation_split: float in [0, 1), the share of the last pairs that are
                validated on; not for datasets.
            validation_data: as `x`, or a tuple of `x` and `y`.
            shuffle: bool, where `x` isn't batched.
            class_weight: None: all pairs of a batch weigh alike.
            sample_weight: None.
            initial_epoch: as `keras.Model.fit`.
            steps_per_epoch: as `keras.Model.fit`; pairs that aren't batched are then
                repeated without end.
            validation_steps: as `keras.Model.fit`.
            validation_batch_size: as `keras.Model.fit`.
            validation_freq: as `keras.Model.fit`.
            augment: bool; crop raw images at a random place, and mirror half of them.
                With False all are cropped in the center, as in validation. For more,
                see `align_keras.data.image_text_batches`.
            value_range: two floats, black and white of raw float images, such as
                (0, 1). Without it, they are refused.

        Returns:
            `keras.callbacks.History`.

        Raises:
            InputError: if an argument isn't as above, an image can't be read, or
                inputs have wrong names, dtypes or shapes.
            UnsoundStepError: at the first loss or gradient that isn't finite, and
                at a loss above `loss_upper_bound`. The model is then as it was
                before that step.

        References:
            Jia et al. 2021, section 5 (resize, random crop, horizontal flip).
        """
        check_weights(class_weight=class_weight, sample_weight=sample_weight)
        if validation_split and validation_data is None:
            x, y, validation_data = split_pairs(x, y, validation_split)
        pairs = raw_pairs(x, y)
        if pairs is None and not isinstance(x, tf.data.Dataset):
            options = {"shuffle": shuffle}
        else:
            options = {"shuffle": False}  # else Keras warns at each call
        x = keras_input(
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
            validation_data = as_x_and_y(validation_data)
            validation_data = keras_input(
                self,
                *validation_data,
                batch_size=validation_batch_size or batch_size,
                value_range=value_range if is_raw_data(*validation_data) else None,
            )
        with readable_input(self, pairs[0] if pairs else (), value_range):
            return super().fit(
                x,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=[SoundSteps(), *as_list(callbacks)],
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
                **options,
            )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        value_range=None,
        **kwargs,
    ):
        """As `keras.Model.evaluate`; takes raw pairs too (see `fit`)."""
        known = parameters_of(ContrastiveModel.evaluate)
        refuse_unknown("evaluate", kwargs, [*known, "_use_cached_eval_dataset"])
        check_weights(sample_weight=sample_weight)
        pairs = raw_pairs(x, y)
        x = keras_input(self, x, y, batch_size=batch_size, value_range=value_range)
        with readable_input(self, pairs[0] if pairs else (), value_range):
            return super().evaluate(
                x,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def predict(
        self,
        x,
        batch_size=None,
        verbose="auto",
        steps=None,
        callbacks=None,
        value_range=None,
    ):
        """As `keras.Model.predict`; takes raw pairs too (see `fit`)."""
        pairs = raw_pairs(x)
        x = keras_input(self, x, batch_size=batch_size, value_range=value_range)
        with readable_input(self, pairs[0] if pairs else (), value_range):
            return super().predict(
                x,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
            )


def check_compile_arguments(given, known):
    """Raises for losses and metrics, which are built in, and for unknown arguments.

    Args:
        given: dict, the arguments that `ContrastiveModel.compile` has no name for.
        known: names of those that it has.
    """
    for name in _BUILT_IN:
        if given.get(name) is not None:
            raise InputError(
                f"{name} can't be given, received {given[name]!r}; ALIGN has its own "
                "contrastive loss, with label_smoothing, reduction and "
                "share_equal_captions, and reports loss, loss_i2t, loss_t2i and "
                "temperature. Measure others after fit or in a callback, as by "
                "align_keras.recall_at_k."
            )
    others = {*parameters_of(keras.Model.compile)} - {*known, *_BUILT_IN}
    given = [name for name in given if name not in _BUILT_IN]
    refuse_unknown("compile", given, [*known, *sorted(others)])

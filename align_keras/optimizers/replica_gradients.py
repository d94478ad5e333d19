"""Gradients that are summed over replicas before the optimizer sees them."""

import keras
import tensorflow as tf

from align_keras.utils.errors import InputError


class ReplicaGradients:
    """Mixin of a Keras optimizer: can take gradients that are summed already.

    Keras clips each replica's gradients, then sums them, so that `global_clipnorm`
    bounds the wrong norm. With `gradients_are_summed`, `apply` gets the sums and clips
    those.
    """

    gradients_are_summed = False

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if self.gradients_are_summed:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]


def inner_optimizer(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that a loss-scaling one wraps, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_clipping(optimizer: keras.optimizers.Optimizer, replicas: int) -> None:
    """Raises for an optimizer that would clip each replica's gradients."""
    inner = inner_optimizer(optimizer)
    clips = any((inner.clipnorm, inner.clipvalue, inner.global_clipnorm))
    if clips and replicas > 1 and not isinstance(inner, ReplicaGradients):
        raise InputError(
            f"optimizer must not clip on {replicas} replicas, received "
            f"{type(inner).__name__} with clipnorm, clipvalue or global_clipnorm; "
            "Keras clips before it sums over replicas. Use align_keras.optimizers."
        )


def take_summed_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: list[tf.Tensor], replicas: int
) -> list[tf.Tensor]:
    """Prepares the optimizer for sums over replicas; returns what to give to it: one
    that isn't ours adds up once more, and gets their shares.
    """
    inner = inner_optimizer(optimizer)
    if isinstance(inner, ReplicaGradients):
        inner.gradients_are_summed = True
    elif replicas > 1:
        return [gradient / replicas for gradient in gradients]
    return gradients


def apply_if(
    condition: tf.Tensor | bool,
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    variables: list[keras.Variable],
) -> None:
    """Makes the optimizer's update where `condition`, equal on all replicas, is true.

    One that a loss-scaling optimizer leaves out, since a gradient overflowed, counts
    as a step: its batch is used up, and the run's intervals are in steps.
    """
    iterations = inner_optimizer(optimizer).iterations
    after = iterations.value + tf.cast(condition, iterations.dtype)
    _apply_if(condition, optimizer, gradients, variables)
    if inner_optimizer(optimizer) is not optimizer:
        iterations.assign(after)


def _apply_if(condition, optimizer, gradients, variables):
    if condition is True:
        optimizer.apply(gradients, variables)
        return

    def update():
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    def keep():
        return tf.constant(False)

    # A condition around an update that merges replicas has to stand outside of
    # the replicas, as in Keras's LossScaleOptimizer.
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, update, keep)
        return

    def across(strategy, condition, gradients):
        def update_each():
            strategy.extended.call_for_each_replica(
                optimizer.apply, args=(gradients, variables)
            )
            return tf.constant(True)

        tf.cond(strategy.experimental_local_results(condition)[0], update_each, keep)

    tf.distribute.get_replica_context().merge_call(across, args=(condition, gradients))

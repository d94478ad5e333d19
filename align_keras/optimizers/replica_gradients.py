"""Updates with gradients that are summed over replicas before the optimizer."""

import keras
import tensorflow as tf

from align_keras.utils.errors import InputError


class ReplicaGradients:
    """Mixin of a Keras optimizer that accepts gradients summed over replicas.

    Keras clips the gradients of each replica before it sums them, so `global_clipnorm`
    doesn't limit the norm of the sum. If `gradients_are_summed` is True, `apply`
    receives the sums and clips them.
    """

    gradients_are_summed = False

    def _all_reduce_sum_gradients(self, grads_and_vars: list[tuple]) -> list[tuple]:
        if self.gradients_are_summed:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]


def inner_optimizer(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that a loss-scaling optimizer wraps.

    Any other optimizer is returned unchanged.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_clipping(optimizer: keras.optimizers.Optimizer, replicas: int) -> None:
    """Raises if the optimizer would clip the gradients of each replica separately."""
    inner = inner_optimizer(optimizer)
    clips = any((inner.clipnorm, inner.clipvalue, inner.global_clipnorm))
    if clips and replicas > 1 and not isinstance(inner, ReplicaGradients):
        raise InputError(
            f"An optimizer of Keras must not clip gradients on {replicas} replicas, "
            "because it clips before it sums over replicas. Received: "
            f"{type(inner).__name__} with clipnorm, clipvalue or global_clipnorm. Use "
            "an optimizer of align_keras.optimizers."
        )


def take_summed_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: list[tf.Tensor], replicas: int
) -> list[tf.Tensor]:
    """Returns the gradients to pass to `apply` of an optimizer on each replica.

    Optimizers of this package accept the sums over replicas. Other optimizers sum the
    gradients again, so they need the sums divided by the number of replicas.

    Args:
        optimizer: Keras optimizer.
        gradients: list of tensors, summed over replicas.
        replicas: number of replicas.
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
    """Applies an update of the optimizer if `condition` is true.

    A loss-scaling optimizer skips an update if a gradient overflowed. A skipped update
    also counts as a step, since its batch was used and the intervals of a run are
    measured in steps.

    Args:
        condition: bool or bool tensor, equal on all replicas.
        optimizer: Keras optimizer.
        gradients: list of tensors.
        variables: list of Keras variables.

    Example:

    >>> variable = keras.Variable([1.0])
    >>> optimizer = keras.optimizers.SGD(0.5)
    >>> optimizer.build([variable])
    >>> apply_if(True, optimizer, [tf.constant([1.0])], [variable])
    >>> variable.numpy().tolist()
    [0.5]
    """
    inner = inner_optimizer(optimizer)
    if inner is optimizer:
        _apply_if(condition, optimizer, gradients, variables)
        return
    # The property `iterations` isn't a variable if gradients are accumulated.
    iterations = inner._iterations
    after = iterations.value + tf.cast(condition, iterations.dtype)
    _apply_if(condition, optimizer, gradients, variables)
    iterations.assign(after)


def _apply_if(
    condition: tf.Tensor | bool,
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    variables: list[keras.Variable],
) -> None:
    if condition is True:
        optimizer.apply(gradients, variables)
        return

    def update() -> tf.Tensor:
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    def keep() -> tf.Tensor:
        return tf.constant(False)

    # If an update needs a merge call, the condition must be evaluated in the
    # cross-replica context, as in Keras's LossScaleOptimizer.
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, update, keep)
        return

    def across(
        strategy: tf.distribute.Strategy,
        condition: tf.Tensor,
        gradients: list[tf.Tensor],
    ) -> None:
        def update_each() -> tf.Tensor:
            strategy.extended.call_for_each_replica(
                optimizer.apply, args=(gradients, variables)
            )
            return tf.constant(True)

        tf.cond(strategy.experimental_local_results(condition)[0], update_each, keep)

    tf.distribute.get_replica_context().merge_call(across, args=(condition, gradients))

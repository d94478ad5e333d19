"""A batch and a step on all replicas, as two graphs: what each takes can be told."""

import tensorflow as tf


def one_step(strategy, step_function, jit_compile):
    """Returns the compiled function of a batch → dict of metrics.

    Args:
        strategy: `tf.distribute.Strategy`.
        step_function: callable of a replica's rows → dict of scalars that are the
            same on every replica.
        jit_compile: bool, compile by XLA.
    """

    @tf.autograph.experimental.do_not_convert
    def step(data):
        outputs = strategy.run(step_function, args=(data,))
        return {
            name: strategy.experimental_local_results(value)[0]
            for name, value in outputs.items()
        }

    return tf.function(step, reduce_retracing=True, jit_compile=jit_compile)


def next_batch(iterator):
    """Returns the next batch of a `tf.data`, distributed or Python iterator."""
    if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
        return _get_next(iterator)
    return next(iterator)


@tf.function(reduce_retracing=True)
def _get_next(iterator):
    return iterator.get_next()

"""The function that Keras calls for each batch, which reads the batch first."""

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.data.model_inputs import check_data
from align_keras.losses.cross_replica import UNEQUAL_ROWS
from align_keras.models.compilation import (
    common_length_function,
    cut_captions,
    graph_function,
    is_compiled_by_xla,
)

_ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)


def step_function(
    model: keras.Model, step: Callable, on_batch: Callable[[Any], None] | None = None
) -> Callable[[Any], Any]:
    """Returns a function of an iterator that reads a batch and runs the step on it.

    The batch is read outside of the graph of the step, so that `model.seconds_waited`
    contains the time to read it.

    Args:
        model: `ALIGN`.
        step: function of the batch of a replica, such as `model.train_step`.
        on_batch: function that receives each batch before its step.
    """
    strategy = model.distribute_strategy
    is_compiled = is_compiled_by_xla(model)
    common_length = common_length_function(strategy)

    def run_on_replicas(batch: dict, length: int | None = None) -> Any:
        def run(part: dict) -> Any:
            # Shorter captions could hide an input with a wrong name or shape.
            check_data(model, part)
            return step(cut_captions(part, length))

        for value in tf.nest.flatten(batch):
            parts = strategy.experimental_local_results(value)
            if len({part.shape[0] for part in parts}) > 1:
                raise tf.errors.InvalidArgumentError(None, None, UNEQUAL_ROWS)
        outputs = strategy.run(run, args=(batch,))
        # The outputs are equal on all replicas.
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outputs
        )

    # A compiled step needs known shapes, so it is traced again for each length.
    traced = graph_function(
        run_on_replicas,
        reduce_retracing=not is_compiled,
        jit_compile=model.jit_compile,
    )
    get_next = graph_function(
        lambda iterator: iterator.get_next(), reduce_retracing=True
    )

    def read_and_run(iterator: Any) -> Any:
        is_python = not isinstance(iterator, _ITERATORS)
        is_traced = traced.experimental_get_tracing_count() > 0
        if not is_python and not is_traced and not is_compiled:
            _trace(traced, iterator.element_spec)
        start = time.perf_counter()
        batch = next(iterator) if is_python else get_next(iterator)
        model.seconds_waited += time.perf_counter() - start
        if on_batch is not None:
            on_batch(batch)
        return traced(batch, common_length(batch) if is_compiled else None)

    return read_and_run


def _trace(step: Any, spec: Any) -> None:
    """Traces the step before the first batch is read.

    The input pipeline fills its buffers at the same time.
    """
    if all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec, True)):
        step.get_concrete_function(spec)

"""Loss and gradients of a batch, computed at once or in micro-batches."""

from collections.abc import Callable

import keras
import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.losses.cross_replica import reduce_over_replicas, replica_count
from align_keras.models.compilation import model_inputs
from align_keras.optimizers.replica_gradients import inner_optimizer
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Distance between the seeds of two replicas. It is larger than the number of steps of
# a run, so that no two replicas draw the same dropout masks.
_SEED_STRIDE = 1_000_003


def batch_gradients(model: keras.Model, inputs: dict) -> tuple[tuple, list]:
    """Returns the losses and the gradients of the batch of all replicas.

    Args:
        model: `ALIGN`. `micro_batch_size` is the number of pairs that a replica embeds
            at a time, or None for all of them.
        inputs: dict of tensors, the part of the batch of this replica.
    """
    if model.micro_batch_size is None:
        losses, gradients = loss_gradients(model, inputs)
    else:
        losses, gradients = cached_loss_gradients(model, inputs, model.micro_batch_size)
    sums = reduce_over_replicas("SUM", [*gradients, *losses])
    losses = tuple(loss / replica_count() for loss in sums[len(gradients) :])
    return losses, sums[: len(gradients)]


def loss_gradients(model: keras.Model, inputs: dict) -> tuple[tuple, list]:
    """Returns the losses and the gradients of one replica.

    The gradients of the batch are the sum of the gradients over replicas.
    """
    with tf.GradientTape() as tape:
        outputs = model(model_inputs(model, inputs), training=True)
        losses, loss = scaled_loss(
            model, outputs["image_embedding"], outputs["text_embedding"], inputs
        )
    variables = [variable.value for variable in model.trainable_variables]
    # A loss may ignore an encoder or the temperature.
    gradients = tape.gradient(
        loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return losses, dense(gradients)


def scaled_loss(
    model: keras.Model, images: tf.Tensor, texts: tf.Tensor, inputs: dict
) -> tuple[tuple, tf.Tensor]:
    """Returns the losses of a replica, and the value to differentiate.

    The value is the total loss divided by the number of replicas. A loss-scaling
    optimizer multiplies it by its scale. The loss may need the `inputs` of the batch.
    """
    losses = model.loss.batch_losses(images, texts, model.temperature, inputs)
    total = model.loss.total(*losses) / replica_count()
    return losses, model.optimizer.scale_loss(total)


def dense(gradients: list) -> list:
    """Converts sparse gradients, such as those of an embedding, to dense ones."""
    return [
        None if gradient is None else tf.convert_to_tensor(gradient)
        for gradient in gradients
    ]


def cached_loss_gradients(
    model: keras.Model, inputs: dict, micro_batch_size: int
) -> tuple[tuple, list]:
    """Computes `loss_gradients` with the activations of one micro-batch in memory.

    A first pass without a gradient tape computes all embeddings. The loss of the whole
    batch yields the gradients with respect to the embeddings. A second pass with the
    same dropout masks propagates them to the weights. Batch normalization uses the
    statistics of each micro-batch.

    References:
        Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
        Limited Setup".
    """
    parts = split_inputs(model_inputs(model, inputs), micro_batch_size)
    state = model.forward_state
    statistics, seeds = state.read()
    (images, texts), new_statistics = embed_parts(model, parts, statistics)
    new_seeds = read_values(state.seeds)
    with tf.GradientTape() as tape:
        tape.watch([images, texts])
        losses, loss = scaled_loss(model, images, texts, inputs)
    variables = [variable.value for variable in model.trainable_variables]
    image_gradient, text_gradient, *loss_variable_gradients = dense(
        tape.gradient(loss, [images, texts, *variables])
    )
    # A loss may ignore an encoder.
    if image_gradient is None:
        image_gradient = tf.zeros_like(images)
    if text_gradient is None:
        text_gradient = tf.zeros_like(texts)
    write_values(state.seeds, seeds)
    encoder_gradients = backpropagate_parts(
        model, parts, statistics, image_gradient, text_gradient
    )
    write_values(state.statistics, new_statistics)
    write_values(state.seeds, new_seeds)
    # The temperature is a variable of the loss. The gradients of the other variables
    # with respect to the loss at fixed embeddings are None.
    return losses, [
        gradient if loss_gradient is None else gradient + loss_gradient
        for gradient, loss_gradient in zip(
            encoder_gradients, loss_variable_gradients, strict=True
        )
    ]


def accumulated_gradients(
    model: keras.Model,
    state: "ForwardState",
    inputs: dict,
    micro_batch_size: int,
    part_gradients: Callable,
) -> tuple:
    """Returns the mean loss, all logits and the mean gradients over micro-batches.

    Args:
        model: `ImageClassifier`.
        state: `ForwardState` of the model.
        inputs: dict of tensors (n, …), the batch of this replica.
        micro_batch_size: a divisor of n.
        part_gradients: function that returns loss, logits and gradients for the inputs
            of a micro-batch.
    """
    before = read_values(state.statistics)
    variables = [variable.value for variable in model.trainable_variables]

    def body(number: tf.Tensor, part: dict) -> tuple[list, list]:
        loss, logits, gradients = part_gradients(part)
        values = [loss, *gradients, *read_values(state.statistics)]
        write_values(state.statistics, before)
        return [logits], values

    parts = split_inputs(inputs, micro_batch_size)
    like = [tf.constant(0.0), *variables, *before]
    (logits,), totals = _loop(parts, body, [model.num_classes], like)
    loss, *means = [total / parts["images"].shape[0] for total in totals]
    write_values(state.statistics, means[len(variables) :])
    return loss, logits, means[: len(variables)]


def split_inputs(inputs: dict, micro_batch_size: int) -> dict:
    """Reshapes each input from (n, …) to (n / size, size, …)."""
    rows = inputs["images"].shape[0]
    if rows is None or rows % micro_batch_size:
        raise InputError(
            "micro_batch_size must divide the number of rows of a replica's batch. "
            f"Received: micro_batch_size={micro_batch_size} and "
            f"{rows or 'an unknown number of'} rows. Change one of them, and create "
            "the batches with drop_remainder=True."
        )
    parts = {}
    for name, value in inputs.items():
        # The length of captions without common padding is unknown.
        shape = tf.concat([[-1, micro_batch_size], tf.shape(value)[1:]], axis=0)
        part = tf.reshape(value, shape)
        part.set_shape((rows // micro_batch_size, micro_batch_size, *value.shape[1:]))
        parts[name] = part
    return parts


def _loop(
    parts: dict, body: Callable, widths: list[int], like: list
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Runs `body` on each micro-batch.

    Args:
        parts: dict of tensors (micro-batches, rows, …).
        body: function of the number of a micro-batch and the dict of its inputs. It
            returns a list of tensors (rows, width) and a list of values to sum.
        widths: the width of each tensor of rows.
        like: list of tensors with the shapes and dtypes of the values.

    Returns:
        The rows of all micro-batches, (n, width) each, and the sums of the values.
    """
    count, size = parts["images"].shape[:2]

    def step(
        number: tf.Tensor, arrays: list, totals: list
    ) -> tuple[tf.Tensor, list, list]:
        part = {name: value[number] for name, value in parts.items()}
        rows, values = body(number, part)
        arrays = [a.write(number, row) for a, row in zip(arrays, rows, strict=True)]
        totals = [total + value for total, value in zip(totals, values, strict=True)]
        return number + 1, arrays, totals

    shapes = [(size, width) for width in widths]
    arrays = [tf.TensorArray(tf.float32, count, element_shape=s) for s in shapes]
    zeros = [tf.zeros(value.shape, value.dtype) for value in like]
    # Parallel iterations would use the memory that micro-batches save.
    _, arrays, totals = tf.while_loop(
        lambda number, *_: number < count,
        step,
        (tf.constant(0), arrays, zeros),
        parallel_iterations=1,
        maximum_iterations=count,
    )
    rows = [
        tf.ensure_shape(array.concat(), (count * size, width))
        for array, width in zip(arrays, widths, strict=True)
    ]
    return rows, totals


def embed_parts(model: keras.Model, parts: dict, statistics: list) -> tuple:
    """Returns the embeddings of all micro-batches, and the mean moving statistics.

    Each micro-batch updates the same initial `statistics`. The returned statistics are
    the mean of these updates.
    """
    state = model.forward_state
    width = model.image_encoder.output_shape[-1]

    def body(number: tf.Tensor, part: dict) -> tuple[list, list]:
        outputs = model(part, training=True)
        updated_statistics = read_values(state.statistics)
        write_values(state.statistics, statistics)
        embeddings = [outputs["image_embedding"], outputs["text_embedding"]]
        return embeddings, updated_statistics

    embeddings, totals = _loop(parts, body, [width, width], statistics)
    count = parts["images"].shape[0]
    return embeddings, [total / count for total in totals]


def backpropagate_parts(
    model: keras.Model,
    parts: dict,
    statistics: list,
    image_gradient: tf.Tensor,
    text_gradient: tf.Tensor,
) -> list:
    """Returns the gradients of the weights, summed over all micro-batches.

    `image_gradient` and `text_gradient`, both (n, d), are the gradients of the loss
    with respect to the embeddings.
    """
    state = model.forward_state
    size = parts["images"].shape[1]
    variables = [variable.value for variable in model.trainable_variables]

    def body(number: tf.Tensor, part: dict) -> tuple[list, list]:
        rows = slice(number * size, (number + 1) * size)
        with tf.GradientTape() as tape:
            outputs = model(part, training=True)
            targets = [outputs["image_embedding"], outputs["text_embedding"]]
        gradients = tape.gradient(
            targets,
            variables,
            output_gradients=[image_gradient[rows], text_gradient[rows]],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        write_values(state.statistics, statistics)
        return [], dense(gradients)

    return _loop(parts, body, [], variables)[1]


def check_micro_batches(model: keras.Model, micro_batch_size: int | None) -> None:
    """Raises if the model is normalized over replicas, which micro-batches can't do."""
    if micro_batch_size is None:
        return
    check_number("micro_batch_size", micro_batch_size, 1, 1_000_000, whole=True)
    encoder = model.image_encoder
    if encoder.synchronized or encoder.replicas_per_group:
        raise InputError(
            "micro_batch_size must be None for an image encoder that is normalized "
            "over replicas (synchronized or replicas_per_group). Received: "
            f"micro_batch_size={micro_batch_size}. Each micro-batch is normalized by "
            "its statistics alone. Remove one of the arguments."
        )


def check_weight_dtypes(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    """Raises if an optimizer other than SGD would train 16-bit weights.

    In 16 bits the decays of the moments round to 1, the bias corrections round to 0,
    and squared gradients underflow. As a result, Adam of Keras makes no update.
    """
    dtypes = {variable.dtype for variable in variables}
    narrow = sorted(dtypes & {"bfloat16", "float16"})
    inner = inner_optimizer(optimizer)
    if narrow and not isinstance(inner, keras.optimizers.SGD):
        raise InputError(
            "Weights must be float32 or float64 for every optimizer except SGD. "
            f"Received: {narrow[0]} weights and {type(inner).__name__}. Build the "
            f"model with dtype='mixed_{narrow[0]}', which computes in {narrow[0]} and "
            "keeps float32 weights."
        )


# === Gradient norms and the check for non-finite values ===


def gradient_norms(model: keras.Model, gradients: list) -> list[tf.Tensor]:
    """Returns the gradient norms of the model, the image and the text encoder.

    Args:
        model: `ALIGN` with an optimizer.
        gradients: list of tensors, one for each trainable variable of the model.
    """
    scale = model.optimizer.scale_loss(1.0)
    towers = {}
    for name in ("image_encoder", "text_encoder"):
        for variable in getattr(model, name).trainable_variables:
            towers[id(variable)] = name
    squares = {
        "image_encoder": tf.constant(0.0),
        "text_encoder": tf.constant(0.0),
        "align": tf.constant(0.0),
    }
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        tower = towers.get(id(variable), "align")
        gradient = tf.convert_to_tensor(gradient)
        # Squares of 16-bit gradients would overflow or underflow in 16 bits.
        if gradient.dtype.size < 4:
            gradient = tf.cast(gradient, tf.float32)
        # `l2_loss` is half the sum of squares, and makes no copy of the gradient.
        square = 2.0 * tf.nn.l2_loss(gradient)
        squares[tower] += tf.cast(square, tf.float32)
    image, text = squares["image_encoder"], squares["text_encoder"]
    totals = (image + text + squares["align"], image, text)
    return [tf.sqrt(total) / scale for total in totals]


def is_finite_step(
    model: keras.Model, losses: tuple, norms: list[tf.Tensor]
) -> tf.Tensor:
    """Returns a bool tensor, True if the model may be updated.

    The loss and the gradients must be finite, and the loss at most `loss_upper_bound`.
    """
    optimizer = model.optimizer
    loss = model.loss.total(*losses)
    finite = tf.math.is_finite(norms[0])
    if inner_optimizer(optimizer) is not optimizer:
        # The gradients of a scaled loss may overflow. The loss-scaling optimizer skips
        # such a step and halves the scale, so the run continues. At a scale of 1 the
        # gradients themselves aren't finite.
        finite |= optimizer.scale_loss(1.0) > 1.0
    finite &= tf.math.is_finite(loss)
    if model.loss_upper_bound is not None:
        finite &= loss <= model.loss_upper_bound
    if model.steps_per_execution > 1:
        # The steps after a bad step run before `StopAtNonFinite` can stop them.
        finite &= model.loss_metrics[0].has_finite_loss()
    return finite


# === Batch statistics and seeds ===


class ForwardState:
    """Variables that a forward pass in training changes.

    These are the moving statistics of batch normalization and the dropout seeds of an
    `ALIGN` or an `ImageClassifier`.
    """

    def __init__(self, model: keras.Model) -> None:
        layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, FusedBatchNormalization)
            and layer.trainable
            and not layer.freeze_statistics
        ]
        self.statistics = [
            variable.value
            for layer in layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self.synchronized = any(layer.synchronized for layer in layers)
        self.seeds = [
            variable.value
            for variable in model.non_trainable_variables
            if variable.path.endswith("seed_generator_state")
        ]

    def read(self) -> tuple[list, list]:
        """Returns the current values of the statistics and of the seeds."""
        return read_values(self.statistics), read_values(self.seeds)

    def start_step(self) -> tuple[list, list]:
        """Returns the state, and sets different seeds on each replica."""
        before = self.read()
        if replica_count() > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for seed in self.seeds:
                shift = tf.cast(replica * _SEED_STRIDE, seed.dtype)
                seed.assign(seed + tf.stack([shift, tf.zeros_like(shift)]))
        return before

    def end_step(self, before: tuple[list, list], finite: tf.Tensor | bool) -> None:
        """Makes the state equal on all replicas at the end of a step.

        Args:
            before: result of `start_step`.
            finite: bool or bool tensor. False restores the state `before`.
        """
        statistics, seeds = before
        after = read_values(self.statistics)
        if not self.synchronized and after:
            after = reduce_over_replicas("MEAN", after)
        # The second number of a seed is its counter, which advances. The first number
        # identifies the replica and is restored.
        advanced_seeds = [
            tf.stack([old[0], new[1]])
            for old, new in zip(seeds, read_values(self.seeds), strict=True)
        ]
        values = [
            tf.where(finite, new, old)
            for new, old in zip(
                [*after, *advanced_seeds], [*statistics, *seeds], strict=True
            )
        ]
        write_values([*self.statistics, *self.seeds], values)


def read_values(variables: list) -> list[tf.Tensor]:
    """Returns copies of the current values of variables."""
    return [tf.identity(variable) for variable in variables]


def write_values(variables: list, values: list) -> None:
    """Assigns a value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

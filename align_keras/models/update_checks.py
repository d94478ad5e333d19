"""What a step looks at before it makes an update."""

import tensorflow as tf

from align_keras.optimizers.replica_gradients import inner_optimizer


def gradient_norms(optimizer, variables, gradients):
    """Returns the norms of all gradients, and of each encoder's.

    Args:
        optimizer: Keras optimizer, whose loss scale is divided out.
        variables: list of Keras variables, whose paths name their encoder.
        gradients: list of tensors, in the same order.

    Returns:
        Three scalars: of all, of the image and of the text encoder.
    """
    scale = optimizer.scale_loss(1.0)
    squares = {"image_encoder": 0.0, "text_encoder": 0.0, "align": 0.0}
    for variable, gradient in zip(variables, gradients, strict=True):
        tower = variable.path.partition("/")[0]
        tower = tower if tower in squares else "align"
        # Half the sum of squares, without a copy of the gradient.
        squares[tower] += 2.0 * tf.nn.l2_loss(tf.convert_to_tensor(gradient))
    image, text = squares["image_encoder"], squares["text_encoder"]
    totals = (sum(squares.values()), image, text)
    return [tf.sqrt(total) / scale for total in totals]


def is_sound(optimizer, loss, gradient_norm, loss_upper_bound):
    """Returns whether an update may be made, a scalar bool tensor.

    Args:
        optimizer: Keras optimizer.
        loss: scalar float tensor, of the batch of all replicas.
        gradient_norm: scalar float tensor.
        loss_upper_bound: float or None.
    """
    finite = tf.math.is_finite(gradient_norm)
    if inner_optimizer(optimizer) is not optimizer:
        # A scaled loss may overflow: its optimizer leaves such steps out and halves
        # the scale. Without a scale left to halve, it's the gradient's own fault.
        finite |= optimizer.scale_loss(1.0) > 1.0
    sound = tf.math.is_finite(loss) & finite
    if loss_upper_bound is not None:
        sound &= loss <= loss_upper_bound
    return sound

"""What XLA compiles by itself, and where nothing is."""

import pytest
import tensorflow as tf

from align_keras.layers.activation import activate
from align_keras.losses import contrastive_loss


def compiled_by_themselves():
    """The functions of a small step's graph that XLA is to compile by themselves."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")

    def replica():
        rows = tf.ones((4, 2))
        with tf.GradientTape() as tape:
            tape.watch(rows)
            images = sum(
                activate(name, rows, training=True)
                for name in ("silu", "gelu", "gelu_approximate")
            )
            loss = contrastive_loss(images, rows, 1.0, tile_size=2)
        return tape.gradient(loss, rows)

    step = tf.function(lambda: strategy.run(replica))
    library = step.get_concrete_function().graph.as_graph_def().library.function
    return [own.signature.name for own in library if own.attr["_XlaMustCompile"].b]


@pytest.mark.ci
@pytest.mark.parametrize("on_tpu", [False, True])
def test_on_a_tpu_nothing_is_compiled_within_the_step(monkeypatch, on_tpu):
    """Shown on a CPU whose strategy passes for a TPU's, which none has here."""
    if on_tpu:
        monkeypatch.setattr(
            tf.distribute, "TPUStrategy", tf.distribute.OneDeviceStrategy
        )
    # Three gradients, GELU forward twice, and the fused tile.
    assert len(compiled_by_themselves()) == (0 if on_tpu else 6)

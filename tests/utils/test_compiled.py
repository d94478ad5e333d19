"""Compilation of single functions by XLA on CPU and TPU strategies."""

import pytest


def list_xla_functions():
    """Returns the functions in the graph of a small step that XLA compiles alone."""
    import tensorflow as tf

    from align_keras.layers.activation import activate
    from align_keras.losses import contrastive_loss

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
    return [
        function.signature.name
        for function in library
        if function.attr["_XlaMustCompile"].b
    ]


@pytest.mark.ci
@pytest.mark.parametrize("on_tpu", [False, True])
def test_no_function_is_compiled_separately_on_a_tpu(monkeypatch, on_tpu):
    """The test runs on a CPU and replaces the class of the TPU strategy."""
    import tensorflow as tf

    if on_tpu:
        monkeypatch.setattr(
            tf.distribute, "TPUStrategy", tf.distribute.OneDeviceStrategy
        )
    # On a CPU: three gradients, the forward functions of both GELUs, and the tile.
    assert len(list_xla_functions()) == (0 if on_tpu else 6)

"""Strategies by name."""

import pytest
import tensorflow as tf

from align_keras.training.strategies import make_strategy, strategy_scope
from align_keras.utils.errors import InputError


def test_names():
    assert make_strategy("default") is None
    with strategy_scope(None):
        assert not tf.distribute.has_strategy()
    assert isinstance(make_strategy("one_device"), tf.distribute.OneDeviceStrategy)
    strategy = make_strategy("mirrored", 1)
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("horovod", None, "must be one of default, one_device"),
        ("tpu", None, "no TPU was found"),
        ("mirrored", 64, "needs as many logical devices"),
    ],
)
def test_errors(name, count, words):
    with pytest.raises(InputError, match=words):
        make_strategy(name, count)

"""The cached function that embeds images."""

import threading

import numpy as np
import pytest

from align_keras.models import inference
from tests.helpers.small import small_align


@pytest.mark.ci
def test_a_second_thread_gets_a_complete_function(monkeypatch):
    model = small_align()
    build = inference.image_graph
    results = []

    def embed():
        pixels = np.zeros((1, 32, 32, 3))
        results.append(inference.image_function(model)(pixels))

    def build_while_another_thread_embeds(aligned):
        monkeypatch.setattr(inference, "image_graph", build)
        thread = threading.Thread(target=embed)
        thread.start()
        thread.join()
        return build(aligned)

    monkeypatch.setattr(inference, "image_graph", build_while_another_thread_embeds)
    embed()
    assert len(results) == 2
    np.testing.assert_array_equal(*results)

"""The recorded results equal those of the installed reference implementations."""

import numpy as np
import pytest

from tests.helpers.oracle_process import needs
from tests.helpers.recorded_oracles import CASES, recorded


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(*CASES[name].packages)) for name in CASES]
)
def test_recorded_results_are_reproduced(name):
    for question, answer in recorded(name):
        actual = CASES[name].answer(question)
        assert set(actual) == set(answer)
        for part, value in answer.items():
            # Processors and versions add float32 values in different orders.
            np.testing.assert_allclose(actual[part], value, rtol=1e-5, atol=1e-6)


def test_every_case_is_recorded():
    for name in CASES:
        assert recorded(name), name

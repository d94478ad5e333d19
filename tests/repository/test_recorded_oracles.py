"""The recorded answers are still what the oracles say."""

import numpy as np
import pytest

from tests.helpers.oracle_process import needs
from tests.helpers.recorded_oracles import CASES, recorded


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(*CASES[name].packages)) for name in CASES]
)
def test_answers_are_still_the_oracles(name):
    for question, answer in recorded(name):
        found = CASES[name].answer(question)
        assert set(found) == set(answer)
        for part, value in answer.items():
            # Single precision in another order of sums, by processor and version.
            np.testing.assert_allclose(found[part], value, rtol=1e-5, atol=1e-6)


def test_every_case_is_recorded():
    for name in CASES:
        assert recorded(name), name

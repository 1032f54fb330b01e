"""A selection of faults in the real commands; python -m tests.faults does hundreds.

Two rounds, because each starts a command three times: whole, under the fault, and again.
"""

import pytest

from tests.faults.rounds import Rounds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return Rounds(tmp_path_factory.mktemp("faults"), seed=3)


@pytest.mark.parametrize("kind", ["power", "term"])
def test_training_ends_the_same(rounds, kind):
    outcome = rounds.round("train", kind)
    assert outcome.result == "identical", outcome

"""A fault after the other in the real command; python -m tests.faults does hundreds of rounds.

One round, because it starts a command four times: whole; until the power goes, which forgets what
was not synced; until a signal; and to the end.
"""

import pytest

from tests.faults.commands import close_server
from tests.faults.rounds import Rounds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    yield Rounds(tmp_path_factory.mktemp("faults"), seed=5)
    close_server()


def test_training_ends_the_same(rounds):
    outcome = rounds.round("train", "power+term")
    assert outcome.result == "identical", outcome
    assert outcome.lost < 2 * 4  # checkpoints are written every 4 steps, while the run goes on

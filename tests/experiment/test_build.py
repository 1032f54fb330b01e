"""From a config to its parts: what of the embedded world is kept in memory."""

import pytest

from onediff_jax.experiment.build import make_experiment
from tests.experiments import shrunken


@pytest.mark.parametrize(("cache_gib", "fit"), [(1.0, True), (0.001, False)])
def test_examples_are_kept_where_all_of_them_fit(cache_gib, fit):
    """Elsewhere the views are, which several tasks share; the values are the same."""
    found = make_experiment(shrunken(data__scenes=200, data__cache_gib=cache_gib))
    depth, canny = (found.encoded(task) for task in ("depth2image", "canny2image"))
    first = depth[3]
    view_alone = found.cache.used
    assert (depth[3] is first) == fit
    again = canny[3]
    assert found.cache.used > view_alone if fit else found.cache.used == view_alone > 0
    assert (again.frames[0] == first.frames[0]).all()

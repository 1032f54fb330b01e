"""Cameras drawn in three dimensions."""

import numpy as np

from onediff_jax.evaluation.frusta import frusta
from onediff_jax.evaluation.galleries import card
from onediff_jax.evaluation.report import Gallery, Report, page
from onediff_jax.evaluation.stored_scores import Shown, seen_cameras
from onediff_jax.tasks.cameras import orbit_cameras, ray_frames, rays_from_cameras


def test_cameras_in_space_are_seen_from_all_sides():
    cameras = orbit_cameras([0, 90], 0, 2.0)
    drawn = [frusta(cameras, turn) for turn in (0, 90, 360)]
    assert drawn[0].count("<line") == 20 and drawn[0].count("<text") == 2
    assert drawn[0] == drawn[2] != drawn[1]
    # The second camera stands to the right of the first one's view, as one sees from behind.
    places = [float(part.split('"')[1]) for part in drawn[0].split("<text ")[1:]]
    assert places[0] < places[1]


def test_true_cameras_are_grey_and_have_no_numbers():
    drawn = frusta(orbit_cameras([0, 40], 0, 2.0), true=orbit_cameras([0, 90], 0, 2.0))
    assert drawn.count("<line") == 40 and drawn.count("#888") == drawn.count("hsl(") == 20
    assert drawn.count("<text") == 2


def test_cards_of_found_cameras_show_them_beside_the_true_ones():
    """Cameras read off generated rays, relative to the first; none where the rays were given."""
    true = orbit_cameras([30, 120], 10, 1.7)
    rays = ray_frames(rays_from_cameras(true, 8)).astype(np.float32)
    picture = np.zeros((64, 64, 3), np.uint8)
    frames, roles = [picture, rays[0], picture, rays[1]], ["image", "ray"] * 2
    assert seen_cameras(frames, roles, [1, 0, 1, 0], true) is None
    seen = seen_cameras(frames, roles, [0, 1, 0, 1], true)
    assert seen is not None
    found, right = seen
    np.testing.assert_allclose(found.R, right.R, atol=1e-4)
    np.testing.assert_allclose(found.T, right.T, atol=1e-4)
    np.testing.assert_allclose(right.R[0], np.eye(3), atol=1e-12)

    common = ("image2camera", "scene 0", "[[multiview]]", (picture,), (), (), ())
    drawn = card(Shown(*common, None, "", "higher", seen))
    report = page(Report("title", [], [], galleries=[Gallery("image2camera", (drawn,))]))
    assert report.count("<svg") == 1 and "grey: the true ones" in report
    assert not card(Shown(*common, None, "", "higher")).drawings

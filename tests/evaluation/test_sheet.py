"""Contact sheets."""

import numpy as np

from onediff_jax.data.codec import LightCodec
from onediff_jax.evaluation.sheet import CELL, draw_sheet, picture
from onediff_jax.tasks.cameras import orbit_cameras, ray_frames, rays_from_cameras


def flat(level, height=64, width=64):
    return np.full((height, width, 3), level, np.uint8)


def cells(given=(), generated=(), truth=()):
    return {"given": list(given), "generated": list(generated), "truth": list(truth)}


def test_every_picture_is_on_the_sheet():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [np.broadcast_to(np.uint8(c), (64, 64, 3)) for c in colors]
    one = cells(given=pictures[:1], generated=pictures[1:2], truth=pictures[2:])
    sheet = draw_sheet([("depth2image", "a red cube", one)])
    for color in colors:
        assert (sheet == np.uint8(color)).all(-1).sum() == CELL**2
    again = draw_sheet([("depth2image", "a red cube", one)] * 9)
    assert (again == np.uint8(colors[0])).all(-1).sum() == 9 * CELL**2
    assert again.shape[0] > sheet.shape[0] and again.shape[1] <= 1600


def test_pictures_keep_their_shape_and_long_prompts_fit():
    sheet = draw_sheet([("faceid", "word " * 200, cells(generated=[flat(7, 32, 64)]))])
    rows, columns = np.nonzero((sheet == 7).all(-1))
    assert np.ptp(columns) + 1 == CELL and np.ptp(rows) + 1 == CELL // 2


def test_a_bundle_wider_than_the_sheet_widens_it():
    sheet = draw_sheet([("multiview", "", cells(*[[flat(9)] * 12] * 3))])
    assert (sheet == 9).all(-1).sum() == 36 * CELL**2


def test_frames_become_pictures():
    codec = LightCodec()
    image = flat(100)
    assert picture(image, codec) is image
    np.testing.assert_allclose(picture(codec.encode(image), codec), image, atol=1)
    rays = ray_frames(rays_from_cameras(orbit_cameras([0, 90], 10, 1.7), 8))[1]
    drawn = picture(rays.astype(np.float32), codec, "ray")
    assert drawn.shape == (64, 64, 3) and drawn.std() > 0

"""Files as given frames: what prepare reads, read alike; never a black picture in silence."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from onediff_jax.sampling.read import FileReader, cameras_of
from onediff_jax.tasks.cameras import orbit_cameras


def png(values) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


RAMP = np.tile(np.linspace(1000, 4000, 31), (20, 1))  # millimetres
MILLIMETRES = png(RAMP.astype(np.uint16))


@pytest.mark.parametrize(
    "data, scale",
    [
        (MILLIMETRES, 0.001),
        (npy(RAMP.astype(np.int32)), 0.001),
        (npy((RAMP / 1000).astype(np.float32)), 0.001),
        (png((10 * RAMP).astype(np.uint16)), 0.0001),
    ],
)
def test_depth_in_any_unit_is_white_where_near(data, scale):
    picture, regions = FileReader(depth_scale=scale, depth_near=1.0, depth_far=4.0).decode(
        data, "depth"
    )
    assert regions == () and picture.shape == (20, 31, 3)
    assert picture[0, 0, 0] == 255 and picture[0, -1, 0] == 1
    assert abs(int(picture[0, 10, 0]) - round(1 + 254 * (1 / 2 - 1 / 4) / (1 - 1 / 4))) <= 1


def test_eight_bits_are_a_depth_picture_already():
    grey = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (20, 1))
    np.testing.assert_array_equal(FileReader().decode(png(grey), "depth")[0][..., 0], grey)


@pytest.mark.parametrize("role", ["image", "canny", "normal"])
def test_measurements_are_no_picture(role, tmp_path):
    (tmp_path / "mm.png").write_bytes(MILLIMETRES)
    with pytest.raises(ValueError, match=r"mm.png: .*16-bit values of 1000…4000 are measur"):
        FileReader().read(tmp_path / "mm.png", role)
    with pytest.raises(ValueError, match="a NumPy file is read as depth"):
        FileReader().decode(npy(RAMP), role)


def test_class_maps_bring_their_regions(tmp_path):
    (tmp_path / "classes.txt").write_text("\nsky\ncar\n")
    classes = np.ones((20, 30), np.uint8)
    classes[:5], classes[15:] = 0, 2
    reader = FileReader(classes=str(tmp_path / "classes.txt"))
    picture, regions = reader.decode(png(classes), "semanticmap")
    assert [label for _, label in regions] == ["sky", "car"]
    assert (picture[:5] == 0).all() and len(np.unique(picture.reshape(-1, 3), axis=0)) == 3
    painted = FileReader().decode(png(picture), "semanticmap")
    np.testing.assert_array_equal(painted[0], picture)


@pytest.fixture
def scene(tmp_path):
    """Three views on an orbit, 40 × 30 pixels."""
    orbit = orbit_cameras([0, 30, 60], 20, 1.7, focal=1.0)
    frames = []
    for index in range(3):
        matrix = np.eye(4)
        matrix[:3, :3] = orbit.R[index] * [-1, 1, -1]
        matrix[:3, 3] = orbit.centres[index]
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": matrix.tolist()})
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps({"fl_x": 30.0, "w": 40, "h": 30, "frames": frames}))
    return file


def test_cameras_of_given_pictures_come_first(scene):
    cameras, size = cameras_of(scene)
    assert size == (30, 40) and len(cameras) == 3
    np.testing.assert_allclose(cameras.focal, 2.0)
    np.testing.assert_allclose(cameras.R[0], np.eye(3), atol=1e-9)
    turned, _ = cameras_of(scene, ["elsewhere/2.jpg"])
    np.testing.assert_allclose(turned.R[0], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(turned.R[1], cameras.R[2].T, atol=1e-9)  # from view 2 to view 0
    with pytest.raises(ValueError, match="some of the given pictures, but not .'9'"):
        cameras_of(scene, ["1.png", "9.png"])


def test_cameras_that_cannot_be_used(scene):
    values = json.loads(scene.read_text())
    for change, message in (
        ({"camera_model": "OPENCV_FISHEYE"}, "0.png: camera_model OPENCV_FISHEYE is no pinhole"),
        ({"frames": []}, "no frames"),
        ({"fl_x": None, "camera_angle_x": 1.0, "w": None}, "does not tell the pictures' size"),
    ):
        scene.write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=message):
            cameras_of(scene)

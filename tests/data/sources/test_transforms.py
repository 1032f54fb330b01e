import numpy as np
import pytest
from PIL import Image

from onediff_jax.data.sources import open_source
from onediff_jax.tasks.cameras import cameras_from_transforms, rebase


def look_at(azimuth: float, distance: float = 3.0) -> np.ndarray:
    """(4, 4) camera to world, OpenGL axes, on a circle around the origin, z up."""
    angle = np.deg2rad(azimuth)
    back = np.array([np.cos(angle), np.sin(angle), 0.3])
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    pose[:3, 3] = distance * back
    return pose


def frames(count: int, name: str = "images/{:04d}.png") -> list[dict]:
    return [
        {"file_path": name.format(i), "transform_matrix": look_at(20 * i).tolist()}
        for i in range(count)
    ]


def scene(files, folder: str, count: int = 8, images: str = "images", **fields):
    for index in range(count):
        files.write(f"{folder}/{images}/{index:04d}.png", files.photo(index))
    content = {"fl_x": 400.0, "fl_y": 410.0, "w": 320, "h": 240, "frames": frames(count)} | fields
    files.write(f"{folder}/transforms.json", content)
    return content


def test_scenes_give_examples_with_their_cameras(files, read):
    content = scene(files, "garden", caption="a garden")
    scene(files, "deep/hall", images="images")
    result = read("transforms", files, examples=5)
    assert not result.bad and result.source.shards() == ["deep/hall", "garden"]
    assert [r.key for r in result.good if r.group == "garden"] == [f"garden#{i}" for i in range(5)]
    poses = np.array([f["transform_matrix"] for f in content["frames"]])
    lengths = set()
    for example in result.good:
        order = [int(name[-8:-4]) for name in example.extras["files"]]
        assert len(set(order)) == len(order)
        lengths.add(len(order))
        for index, image in zip(order, example.images, strict=True):
            assert (image == files.photo(index)).all()
        rest = [i for i in range(8) if i != order[0]]
        expected = cameras_from_transforms(
            poses[[order[0], *rest]], height=240, width=320, fl_x=400, fl_y=410
        )[[0, *(1 + rest.index(i) for i in order[1:])]]
        np.testing.assert_allclose(example.cameras.R, expected.R, atol=1e-12)
        np.testing.assert_allclose(example.cameras.T, expected.T, atol=1e-12)
        # The pictures are 32x24, copies of 320x240: the same cameras.
        np.testing.assert_allclose(example.cameras.focal, expected.focal, atol=1e-12)
        np.testing.assert_allclose(rebase(example.cameras).T, example.cameras.T, atol=1e-12)
        assert np.linalg.norm(example.cameras.centres[0]) < 1e-12
    assert lengths <= {2, 3, 4, 5, 6} and len(lengths) > 2
    assert result.by_key["garden#0"].captions[0] == ("a garden",)


def test_down_sized_folders(files, read):
    scene(files, "s", images="images_4", frames=frames(8, "images/{:04d}.JPG"))
    with_folder = read("transforms", files.path("s"), image_folder="images_4", examples=2)
    assert len(with_folder.good) == 2 and not with_folder.bad
    without = read("transforms", files.path("s"), examples=2)
    assert not without.good
    assert [r.reason for r in without.bad] == ["missing_file"] * 8 + ["too_few_views"]


def test_nerf_synthetic_layout(files, read):
    for index in range(4):
        files.write(f"lego/train/r_{index}.png", files.photo(index, height=32, width=32))
    content = {"camera_angle_x": 0.6911, "frames": frames(4, "./train/r_{}")}
    files.write("lego/transforms_train.json", content)
    result = read("transforms", files, pattern="transforms_train.json", examples=1)
    assert not result.bad
    focal = 1 / np.tan(0.6911 / 2)  # NDC: half the side is one unit
    np.testing.assert_allclose(result.good[0].cameras.focal, focal)
    direct = read("transforms", files.path("lego/transforms_train.json"), examples=1)
    assert [r.key for r in direct.good] == ["transforms_train.json#0"]


def test_per_frame_intrinsics_and_wide_pictures(files, read):
    content = frames(3)
    for index, frame in enumerate(content):
        frame |= {"fl_x": 300.0 + index, "w": 320, "h": 240}
        files.write(f"images/{index:04d}.png", files.photo(index))
    files.write("transforms.json", {"frames": content})
    result = read("transforms", files, examples=4)
    for example in result.good:
        order = [int(name[-8:-4]) for name in example.extras["files"]]
        expected = np.array([[300.0 + i] * 2 for i in order]) / 120
        np.testing.assert_allclose(example.cameras.focal, expected)


def test_span_keeps_views_close(files, read):
    scene(files, "s", count=20)
    result = read("transforms", files, examples=30, span=6, max_views=4)
    for example in result.good:
        order = [int(name[-8:-4]) for name in example.extras["files"]]
        assert max(order) - min(order) < 6
    assert {int(n[-8:-4]) for e in result.good for n in e.extras["files"]} > set(range(2, 18))


def test_bad_frames_are_named_and_the_others_used(files, read):
    content = scene(files, "s", count=12)["frames"]
    content[0]["file_path"] = "images/none.png"
    content[1]["transform_matrix"] = np.zeros((4, 4)).tolist()
    content[2]["transform_matrix"] = np.eye(3).tolist()
    content[3]["transform_matrix"][0][0] = float("nan")
    content[4]["transform_matrix"] = (np.diag([2.0, 2, 2, 1]) @ look_at(80)).tolist()
    content[5]["transform_matrix"] = "pose"
    del content[6]["file_path"]
    content[7]["file_path"] = "images/0008.png"
    content[9]["fl_x"] = 0
    files.write("s/images/0010.png", files.encode(files.photo())[:70])
    fields = {"fl_x": 400.0, "fl_y": 410.0, "w": 320, "h": 240, "frames": content}
    files.write("s/transforms.json", fields)
    result = read("transforms", files, examples=12)
    reasons = {key.removeprefix("s/"): reason for key, reason in result.reasons.items()}
    assert reasons.pop("images/0010.png") == "broken_picture"
    assert [r.key for r in result.bad].count("s/images/0010.png") == 1
    reasons = {k: r for k, r in reasons.items() if r != "too_few_views"}
    assert reasons == {
        "images/none.png": "missing_file",
        "images/0001.png": "bad_camera",
        "images/0002.png": "bad_camera",
        "images/0003.png": "bad_camera",
        "images/0004.png": "bad_camera",
        "images/0005.png": "bad_camera",
        "frame 6": "missing_field",
        "images/0008.png": "duplicate_key",
        "images/0009.png": "bad_camera",
    }
    assert result.good
    for example in result.good:
        assert set(example.extras["files"]) <= {"images/0008.png", "images/0011.png"}


def test_scenes_that_cannot_be_used(files, read):
    scene(files, "fisheye", camera_model="OPENCV_FISHEYE")
    scene(files, "one", count=1)
    scene(files, "turned", w=240, h=320)
    still = [f | {"transform_matrix": look_at(0).tolist()} for f in frames(8)]
    scene(files, "parallel", frames=still)
    scene(files, "no_focal", fl_x=None)
    files.write("broken/transforms.json", "{")
    files.write("latin/transforms.json", b'{"frames": [], "caption": "caf\xe9"}')
    files.write("list/transforms.json", [1])
    result = read("transforms", files, examples=2)
    assert not result.good
    by_scene = {}
    for record in result.bad:
        by_scene.setdefault(record.key.split("/")[0].split("#")[0], set()).add(record.reason)
    assert by_scene == {
        "broken": {"bad_metadata"},
        "fisheye": {"bad_camera", "too_few_views"},
        "latin": {"bad_text"},
        "list": {"bad_metadata"},
        "no_focal": {"bad_camera", "too_few_views"},
        "one": {"too_few_views"},
        "parallel": {"bad_camera"},
        "turned": {"size_mismatch", "too_few_views"},
    }


def test_wrong_use(files):
    with pytest.raises(ValueError, match=r"has no transforms\.json"):
        open_source("transforms", str(files))
    scene(files, "s")
    for options, message in (
        ({"max_views": 7}, "in 2..6"),
        ({"min_views": 1}, "in 2..6"),
        ({"examples": 0}, "must be positive"),
        ({"span": 3}, "at least"),
        ({"task": "multiview"}, "unknown option 'task'"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source("transforms", str(files), **options)


def test_pictures_are_those_that_the_cameras_were_found_for(files, read):
    """COLMAP and others read the stored pixels, whatever EXIF says."""
    exif = Image.Exif()
    for turn, (w, h), upright in ((3, (32, 24), False), (6, (32, 24), False), (6, (24, 32), True)):
        exif[0x0112] = turn
        scene(files, "s", count=3, w=w, h=h)
        for index in range(3):
            data = files.encode(files.photo(index), "PNG", exif=exif)
            files.write(f"s/images/{index:04d}.png", data)
        result = read("transforms", files, examples=1)
        (example,) = result.good
        stored = files.photo(int(example.extras["files"][0][-8:-4]))
        expected = np.rot90(stored, -1) if upright else stored
        assert (example.images[0] == expected).all()


def test_no_lens_but_a_pinhole(files, read):
    for field in (
        {"camera_model": "opencv-fisheye"},
        {"camera_model": "THIN_PRISM_FISHEYE"},
        {"camera_model": "SPHERICAL"},
        {"camera_type": "fisheye"},
        {"is_fisheye": True},
        {"is_fisheye": "true"},
    ):
        scene(files, "s", count=3, **field)
        assert set(read("transforms", files).reasons.values()) == {"bad_camera", "too_few_views"}
        per_frame = [frame | field for frame in frames(3)]
        scene(files, "s", count=3, frames=per_frame, camera_model="OPENCV")
        assert not read("transforms", files).good
    fine = [{**frame, "camera_model": "simple_radial", "is_fisheye": False} for frame in frames(3)]
    scene(files, "s", count=3, frames=fine, camera_model="OPENCV_FISHEYE", is_fisheye=True)
    assert read("transforms", files).good  # what a frame says goes first


def test_a_frames_focal_length_goes_before_the_files(files, read):
    angle = 2 * np.arctan(0.5)  # a focal length of one width
    wide = [frame | {"camera_angle_x": angle} for frame in frames(3)]
    scene(files, "s", count=3, frames=wide)
    example = read("transforms", files, examples=1).good[0]
    np.testing.assert_allclose(example.cameras.focal[0], 32 / 12)
    half = [{**frame, "fl_x": 200, "fl_y": 205, "w": 160, "h": 120} for frame in frames(3)]
    scene(files, "s", count=3, frames=half)
    other = read("transforms", files, examples=1).good[0]
    np.testing.assert_allclose(other.cameras.focal[0], [400 / 120, 410 / 120])

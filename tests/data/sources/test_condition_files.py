import io

import numpy as np
import pytest

from onediff_jax.data.sources.base import BadData
from onediff_jax.data.sources.condition_files import ConditionReader, check_aspect
from onediff_jax.data.sources.labels import ClassList
from onediff_jax.tasks import colors


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_class_maps_of_every_storage(files):
    classes = np.zeros((24, 32), np.uint8)
    classes[:10] = 1
    stored = {
        "grey": files.encode(classes),
        "deep": files.encode(classes.astype(np.uint16)),
        "npy": npy(classes.astype(np.int64)),
    }
    reader = ConditionReader(classes=ClassList.build({0: "sky", 1: "sea"}))
    found = {
        name: reader.read("semanticmap", data, (24, 32), "key") for name, data in stored.items()
    }
    colored = np.where(classes[..., None] == 1, np.uint8([1, 2, 3]), np.uint8([4, 5, 6]))
    by_color = ClassList.build(
        [
            {"id": 0, "name": "sky", "color": [4, 5, 6]},
            {"id": 1, "name": "sea", "color": [1, 2, 3]},
        ]
    )
    found["colour"] = ConditionReader(classes=by_color).read(
        "semanticmap", files.encode(colored), (24, 32), "key"
    )
    for name, condition in found.items():
        names = {label: colors.rgb(color) for color, label in condition.regions}
        assert list(names) == ["sky", "sea"], name
        assert (condition.image[:10] == names["sea"]).all(), name
        assert (condition.image[10:] == names["sky"]).all(), name
    with pytest.raises(BadData, match="must hold integers"):
        reader.read("semanticmap", npy(np.zeros((24, 32))), (24, 32), "key")


def test_class_numbers_without_their_list(files):
    numbers = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 21
    for data in (files.encode(numbers), files.encode(numbers.astype(np.uint16))):
        with pytest.raises(BadData, match="class numbers 0…20 needs their class list"):
            ConditionReader().read("semanticmap", data, (24, 32), "key")
    painted = np.zeros((24, 32, 3), np.uint8)
    painted[:10] = colors.rgb("cyan")
    found = ConditionReader().read("semanticmap", files.encode(painted), (24, 32), "key")
    assert (found.image == painted).all()


def test_depth_in_integers_of_an_array_is_scaled():
    metres = np.linspace(2, 8, 24 * 32).reshape(24, 32)
    reader = ConditionReader(depth_scale=0.01, depth_kind="linear")
    data = npy(np.rint(metres * 100).astype(np.int32))
    condition = reader.read("depth", data, (24, 32), "key")
    assert condition.depth_norm["near"] == pytest.approx(2) and condition.depth_norm["far"] == 8
    expected = np.rint(1 + 254 * (8 - np.rint(metres * 100) / 100) / 6)
    assert np.abs(condition.image[..., 0] - expected).max() <= 1


def test_aspect_ratios():
    check_aspect((24, 32), (240, 320))
    check_aspect((341, 512), (683, 1024))  # rounded
    with pytest.raises(BadData, match="32x24 for 24x32"):
        check_aspect((24, 32), (32, 24))

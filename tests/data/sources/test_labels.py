import numpy as np
import pytest

from onediff_jax.data.sources import labels
from onediff_jax.data.sources.base import BadData
from onediff_jax.tasks import colors


def test_class_lists_of_every_form(files):
    for name, content in (
        ("a.txt", "\nsheep\ngrass\n"),
        ("b.json", ["", "sheep", "grass"]),
        ("c.json", {"0": None, "1": "sheep", "2": "grass"}),
        ("d.json", [{"id": i, "name": n} for i, n in enumerate([None, "sheep", "grass"])]),
    ):
        found = labels.ClassList.load(files.write(name, content))
        assert found.names == {0: None, 1: "sheep", 2: "grass"}, name
    with pytest.raises(ValueError, match="listed twice"):
        labels.ClassList.build([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])
    for content in ("{", [], "text", {"x": "sheep"}, [{"id": 0, "name": "a<b"}], [{"name": "a"}]):
        with pytest.raises(ValueError, match=r"class list .*bad\.json"):
            labels.ClassList.load(files.write("bad.json", content))
    with pytest.raises(ValueError, match="missing_file"):
        labels.ClassList.load(files.path("none.txt"))


def test_maps_in_colour():
    classes = labels.ClassList.build(
        [
            {"id": 3, "name": "sheep", "color": "#102030"},
            {"id": 4, "name": "grass", "color": [0, 0, 1]},
        ]
    )
    image = np.zeros((2, 2, 3), np.uint8)
    image[0], image[1] = (0x10, 0x20, 0x30), (0, 0, 1)
    assert classes.indices(image).tolist() == [[3, 3], [4, 4]]
    image[0, 0] = (9, 9, 9)
    with pytest.raises(BadData, match="#090909 is not in"):
        classes.indices(image)
    with pytest.raises(BadData, match="no colours"):
        labels.ClassList.build(["a"]).indices(image)
    for wrong in ("red", "#12345", [1, 2], [0, 0, 256]):
        with pytest.raises(ValueError, match=r"color|invalid"):
            labels.ClassList.build([{"id": 0, "name": "a", "color": wrong}])


def test_labels_go_by_area_and_share_a_name():
    classes = labels.ClassList.build({0: None, 1: "cup", 2: "table", 3: "cup"})
    image = np.array([[0, 1, 3, 2], [0, 0, 1, 2]])
    assert list(classes.labels(image).items()) == [("cup", [1, 3]), ("table", [2])]
    assert list(classes.labels(np.array([[1, 2, 2]]))) == ["table", "cup"]
    with pytest.raises(BadData, match="class 9 is not in"):
        classes.labels(np.array([[9]]))
    with pytest.raises(BadData, match="no pixel"):
        classes.labels(np.zeros((2, 2), int))


def test_colours_are_distinct_and_belong_to_the_record():
    names = [f"thing {i}" for i in range(25)]
    chosen, left_out = labels.choose_colors(names, "a.png")
    assert list(chosen) == names[:20] and left_out == names[20:]
    assert sorted(chosen.values()) == sorted(colors.COLORS)
    assert labels.choose_colors(names, "a.png")[0] == chosen
    assert labels.choose_colors(names, "b.png")[0] != chosen


def test_regions():
    assert labels.check_regions(None) == ()
    assert labels.check_regions([("red", " cup ")]) == (("red", "cup"),)
    for wrong in ("red", [["red"]], [["red", ""]], [["beige", "cup"]], [3], {"red": "cup"}):
        with pytest.raises(BadData, match="bad_"):
            labels.check_regions(wrong)


def test_void_is_not_painted_and_numbers_are_names():
    classes = labels.ClassList.build(["sky", 3, None, ""])
    assert classes.names == {0: "sky", 1: "3", 2: None, 3: None}
    assert classes.labels(np.array([[0, 255, 255], [1, 1, -1]])) == {"3": [1], "sky": [0]}
    with pytest.raises(BadData, match="class 7 is not"):
        classes.labels(np.array([[0, 7]]))
    with pytest.raises(BadData, match="no pixel has a label"):
        classes.labels(np.full((2, 2), 255))

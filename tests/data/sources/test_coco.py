import numpy as np
import pytest

from onediff_jax.data.sources import open_source
from onediff_jax.tasks import colors
from onediff_jax.tasks.pose import draw_pose
from onediff_jax.tasks.regions import paint_boxes

CATEGORIES = [{"id": 1, "name": "sheep"}, {"id": 5, "name": "dog"}]


def coco(files, annotations, *, images=None, categories=CATEGORIES, name="instances.json"):
    if images is None:
        images = [
            {"id": 10 + i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in range(4)
        ]
        for index in range(4):
            files.write(f"val/{index}.png", files.photo(index))
    content = {"images": images, "annotations": annotations, "categories": categories}
    return files.write(name, content)


def box(picture: int, bbox, category: int = 1, **fields) -> dict:
    return {"image_id": 10 + picture, "bbox": bbox, "category_id": category} | fields


def test_boxes_are_painted_with_matching_regions(files, read):
    annotations = [
        box(0, [2, 3, 10, 8]),
        box(0, [12, 3, 18, 20], category=5),
        box(0, [0, 0, 5, 5]),
        box(1, [1, 1, 4, 4], iscrowd=1),
    ]
    path = coco(files, annotations)
    texts = [{"image_id": 10, "caption": "two sheep"}, {"image_id": 10, "caption": "a dog too"}]
    captions = coco(files, texts, images=[], name="captions.json")
    result = read(
        "coco", path, task="boundingbox2image", image_root=files.path("val"), captions=captions
    )
    assert not result.bad
    (example,) = result.good
    assert example.captions == (("two sheep", "a dog too"), ())
    assert [label for _, label in example.regions] == ["dog", "sheep"]  # the largest area first
    names = {label: color for color, label in example.regions}
    expected = paint_boxes(
        24,
        32,
        [[2, 3, 12, 11], [12, 3, 30, 23], [0, 0, 5, 5]],
        [names["sheep"], names["dog"], names["sheep"]],
    )
    assert (example.images[1] == expected).all()
    assert set(names.values()) <= set(colors.COLORS)
    facts = result.source.describe()
    assert (facts["pictures"], facts["without_annotation"]) == (1, 3)


def test_boxes_follow_down_sized_pictures(files, read):
    images = [{"id": 1, "file_name": "0.png", "width": 320, "height": 240}]
    files.write("0.png", files.photo())
    path = coco(
        files, [{"image_id": 1, "bbox": [20, 30, 100, 80], "category_id": 1}], images=images
    )
    (example,) = read("coco", path, task="boundingbox2image").good
    color = example.regions[0][0]
    assert (example.images[1] == paint_boxes(24, 32, [[2, 3, 12, 11]], [color])).all()


def test_bad_annotations(files, read):
    annotations = [
        box(0, [2, 3, 0, 8]),
        box(1, [100, 100, 5, 5]),
        box(2, [2, 3, float("nan"), 8]),
        box(3, [2, 3, 5, 8], category=99),
        box(80, [2, 3, 5, 8]),
        7,
    ]
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in range(4)]
    images += [
        {"id": 10, "file_name": "again.png"},
        {"id": 77, "file_name": "0.png"},
        {"file_name": "x.png"},
        {"id": 20, "file_name": "turned.png", "width": 24, "height": 32},
        {"id": 21, "file_name": "missing.png"},
    ]
    annotations += [{"image_id": i, "bbox": [1, 1, 9, 9], "category_id": 1} for i in (20, 21)]
    for name in ("0.png", "1.png", "2.png", "3.png", "turned.png"):
        files.write(name, files.photo())
    result = read("coco", coco(files, annotations, images=images), task="boundingbox2image")
    assert not result.good
    assert {(r.key, r.reason) for r in result.bad} == {
        ("0.png", "bad_labels"),
        ("1.png", "bad_labels"),
        ("2.png", "bad_labels"),
        ("3.png", "bad_labels"),
        ("image_id 90", "unmatched"),
        ("image_id None", "unmatched"),
        ("again.png", "duplicate_key"),
        ("0.png", "duplicate_key"),
        ("images[6]", "bad_metadata"),
        ("turned.png", "size_mismatch"),
        ("missing.png", "missing_file"),
    }


def test_more_labels_than_colours(files, read):
    categories = [{"id": i, "name": f"thing {i}"} for i in range(23)]
    annotations = [box(0, [0, 0, 5 + i, 5 + i * 0.5], category=i) for i in range(23)]
    result = read(
        "coco",
        coco(files, annotations, categories=categories),
        task="boundingbox2image",
        image_root=files.path("val"),
    )
    (example,) = result.good
    assert len(example.regions) == 20
    assert example.extras == {"labels_left_out": ["thing 2", "thing 1", "thing 0"]}


def test_captions_alone(files, read):
    annotations = [
        {"image_id": 10, "caption": "one"},
        {"image_id": 10, "caption": " 二 "},
        {"image_id": 11, "caption": 5},
    ]
    result = read("coco", coco(files, annotations), task="text2image", image_root=files.path("val"))
    assert {k: r.captions[0] for k, r in result.by_key.items()} == {
        "0.png": ("one", "二"),
        "2.png": (),
        "3.png": (),
    }
    assert result.reasons == {"1.png": "bad_metadata"}


def test_people_become_skeletons(files, read):
    points = np.zeros((17, 3))
    points[:, 0], points[:, 1], points[:, 2] = np.linspace(2, 20, 17), np.linspace(3, 20, 17), 2
    points[4, 2] = 0
    other = points + np.array([8, 0, 0])
    people = [{"id": 1, "name": "person"}]
    annotations = [
        box(0, [0, 0, 9, 9], keypoints=points.ravel().tolist(), num_keypoints=16),
        box(0, [0, 0, 9, 9], keypoints=other.ravel().tolist(), num_keypoints=16),
        box(1, [0, 0, 9, 9], keypoints=[0] * 51, num_keypoints=0),
        box(2, [0, 0, 9, 9], keypoints=[1, 2, 2], num_keypoints=1),
    ]
    path = coco(files, annotations, categories=people)
    result = read("coco", path, task="pose2image", image_root=files.path("val"))
    (example,) = result.good
    from onediff_jax.tasks.pose import LIMBS

    first, second = (draw_pose(24, 32, p, LIMBS) for p in (points, other))
    assert first.any() and (example.images[1] == np.maximum(first, second)).all()
    assert result.reasons == {"2.png": "bad_labels"}


def test_keypoints_of_other_animals(files, read):
    ants = [{"id": 1, "name": "ant", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]}]
    points = [3, 3, 2, 12, 12, 2, 25, 5, 1]
    path = coco(files, [box(0, [0, 0, 9, 9], keypoints=points)], categories=ants)
    (example,) = read("coco", path, task="pose2image", image_root=files.path("val")).good
    expected = draw_pose(24, 32, np.reshape(points, (3, 3)), [(0, 1), (1, 2)])
    assert (example.images[1] == expected).all()


def test_wrong_use(files):
    path = coco(files, [])
    with pytest.raises(ValueError, match="needs task"):
        open_source("coco", path)
    with pytest.raises(ValueError, match="unknown task 'hed2img' of a COCO file; choose from"):
        open_source("coco", path, task="hed2img")
    for content in ("{", b"caf\xe9", {"images": []}, [1]):
        files.write("bad.json", content)
        with pytest.raises(ValueError, match="is no COCO file"):
            open_source("coco", files.path("bad.json"), task="text2image")


def test_boxes_without_area_and_odd_categories(files, read):
    """Other boxes of the picture stay; numbers are names; null is nothing."""
    files.write("0.png", files.photo())
    annotations = [box(0, [2, 3, 10, 8]), box(0, [9.98, 4.56, 5.54, 0.0])]
    images = [{"id": 10, "file_name": "0.png", "width": None, "height": 24}]
    path = coco(files, annotations, images=images, categories=[{"id": 1, "name": 7}, None])
    (example,) = read("coco", path, task="boundingbox2image").good
    assert [label for _, label in example.regions] == ["7"]
    assert example.extras == {"boxes_left_out": [[9.98, 4.56, 15.52, 4.56]]}
    path = coco(files, annotations, images=images, categories=None)
    assert read("coco", path, task="boundingbox2image").reasons == {"0.png": "bad_labels"}
    images.append({"id": 11, "file_name": "../../x.png"})
    path = coco(files, [{"image_id": 10, "caption": "x"}], images=images, categories=None)
    assert read("coco", path, task="text2image").reasons == {"../../x.png": "outside"}


def test_captions_of_another_file_or_none(files, read):
    """text2image takes them from captions=FILE; a file without any is refused."""
    path = coco(files, [box(0, [1, 1, 4, 4])])
    texts = [{"image_id": 10, "caption": "a sheep"}]
    captions = coco(files, texts, images=[], name="captions.json")
    options = {"task": "text2image", "image_root": files.path("val")}
    result = read("coco", path, captions=captions, **options)
    assert result.by_key["0.png"].captions == (("a sheep",),)
    with pytest.raises(ValueError, match=r"has no captions; captions=FILE names them"):
        open_source("coco", path, **options)
    with pytest.raises((ValueError, OSError), match="nowhere.json"):
        open_source("coco", path, captions=files.path("nowhere.json"), **options)


def test_another_folder_of_pictures_is_another_source(files):
    path = coco(files, [box(0, [1, 1, 4, 4])])
    files.write("clean/0.png", files.photo(7))
    found = [
        open_source("coco", path, task="boundingbox2image", image_root=root).describe()
        for root in (files.path("val"), files.path("clean"))
    ]
    assert found[0] != found[1]


def test_seventeen_keypoints_of_others_keep_their_own_limbs(files, read):
    """AP-10K's animals have as many keypoints as people, in another order."""
    names = ["left_eye", "right_eye", "nose", "neck", "root_of_tail", *(f"p{i}" for i in range(12))]
    dog = {"id": 5, "name": "dog", "keypoints": names, "skeleton": [[1, 2], [3, 4]]}
    points = np.random.default_rng(0).uniform(4, 20, (17, 3))
    points[:, 2] = 2
    annotation = box(0, [1, 1, 9, 9], 5, keypoints=points.ravel().tolist())
    path = coco(files, [annotation], categories=[dog])
    result = read("coco", path, task="pose2image", image_root=files.path("val"))
    expected = draw_pose(24, 32, points, [(0, 1), (2, 3)])
    assert (result.good[0].images[1] == expected).all()

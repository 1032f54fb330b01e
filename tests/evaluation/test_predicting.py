"""A model's answers as files: what a model that draws the truth would score, and what is asked."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from onediff_jax.data.layout import Slot
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.benchmarks.views import GSO30
from onediff_jax.evaluation.predicting import PREDICTORS, base
from onediff_jax.evaluation.predicting.base import prepare_folder
from onediff_jax.sampling.request import make_plan
from onediff_jax.tasks.cameras import cameras_from_transforms
from onediff_jax.tasks.definitions import BUILT_IN
from onediff_jax.tasks.pose import LIMBS, draw_pose
from onediff_jax.tasks.regions import paint_boxes, paint_semantic

SIDE = 128


def model(**trained):
    """What a predictor looks at of an experiment."""
    weights = dict.fromkeys(BUILT_IN, 1.0) | trained
    return SimpleNamespace(
        tasks=BUILT_IN,
        config=SimpleNamespace(data=SimpleNamespace(tasks=weights)),
        sizes=dict.fromkeys(("t2i", "i2i", "identity", "multiview"), ((SIDE, SIDE),)),
        slots=lambda name: (Slot("multiview", 8, 64),),
    )


def scores(name, folder, out, draw, **options):
    """The numbers of a benchmark whose every request is answered by `draw(item, request)`."""
    benchmark = BENCHMARKS[name](folder, None, {})
    predictor = PREDICTORS[name](benchmark, model(), out)
    for place, item in enumerate(benchmark.items):
        requests = predictor.requests(item)
        for request in requests:
            make_plan(request)
        assert not predictor.done(item)
        predictor.write(item, [[draw(item, request, n)] for n, request in enumerate(requests)])
        assert predictor.done(item), place
    predictor.finish(benchmark.items)
    (found,) = score_predictions(name, folder, out, options=options)
    return {row.metric: row.value for row in found.rows}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Two wide pictures with maps of ADE20K's numbers: bands whose places tell a crop."""
    folder = tmp_path_factory.mktemp("ade")
    for kind in ("images", "annotations"):
        (folder / kind / "validation").mkdir(parents=True)
    for number in (1, 2):
        numbers = np.zeros((96, 192), np.uint8)
        numbers[:, :30], numbers[:, 30:100], numbers[10:, 150:] = 1, 5 + number, 20
        Image.fromarray(numbers).save(folder / f"annotations/validation/ADE_{number}.png")
        picture = np.repeat(numbers[..., None] * 10, 3, -1)
        Image.fromarray(picture).save(folder / f"images/validation/ADE_{number}.jpg")
    return folder


def test_classes(rooms, tmp_path):
    """The whole picture is asked about, with its classes by name; 0 is not painted."""
    asked = []

    def draw(item, request, _):
        asked.append(request)
        benchmark = BENCHMARKS["ade20k"](rooms, None, {})
        truth = benchmark.truth(item)
        index = {benchmark.class_names.index(label): color for color, label in request.regions}
        whole = Image.fromarray(paint_semantic(truth, index))
        return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.NEAREST))

    found = scores("ade20k", rooms, tmp_path, draw)
    assert found["miou"] > 0.97 and found["accuracy"] > 0.98
    first = asked[0]
    assert first.images[0].shape == (SIDE, SIDE, 3)  # stretched, not cropped
    assert np.abs(first.images[0][:, :15] - 10.0).max() < 12
    names = BENCHMARKS["ade20k"].class_names
    assert sorted(names.index(label) for _, label in first.regions) == [0, 5, 19]


def test_ade20k_has_its_150_classes():
    names = BENCHMARKS["ade20k"].class_names
    assert len(names) == len(set(names)) == 150
    assert (names[0], names[12], names[149]) == ("wall", "person", "flag")
    assert len(BENCHMARKS["cityscapes"].class_names) == 19


PEOPLE = np.array(
    [[0.5, 0.1], [0.55, 0.08], [0.45, 0.08], [0.6, 0.1], [0.4, 0.1], [0.7, 0.25], [0.3, 0.25]]
    + [[0.8, 0.4], [0.2, 0.4], [0.85, 0.5], [0.15, 0.5], [0.62, 0.55], [0.38, 0.55]]
    + [[0.65, 0.75], [0.35, 0.75], [0.66, 0.95], [0.34, 0.95]]
)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A COCO folder of two pictures with people and a dog."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    boxes = {1: [(1, (20, 10, 60, 120)), (1, (150, 30, 70, 100))], 2: [(18, (40, 40, 90, 60))]}
    annotations = []
    for image, found in boxes.items():
        Image.fromarray(np.zeros((160, 240, 3), np.uint8)).save(folder / f"val2017/{image}.jpg")
        for kind, (x, y, w, h) in found:
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": kind}
            entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            if kind == 1:
                points = np.c_[PEOPLE * (w, h) + (x, y), np.full(17, 2)]
                entry |= {"keypoints": points.ravel().tolist(), "num_keypoints": 17}
            annotations.append(entry)
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 240, "height": 160} for i in boxes],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": annotations,
    }
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(truth))
    only = [entry for entry in annotations if entry["category_id"] == 1]
    truth |= {"annotations": only, "categories": truth["categories"][:1]}
    (folder / "annotations/person_keypoints_val2017.json").write_text(json.dumps(truth))
    return folder


def test_boxes(people, tmp_path):
    def draw(item, request, _):
        benchmark = BENCHMARKS["coco_boxes"](people, None, {})
        names = {1: "person", 18: "dog"}
        color = {label: color for color, label in request.regions}
        entries = benchmark.annotations_of(item)
        boxes = np.array([e["bbox"] for e in entries], float)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= np.array([SIDE / 240, SIDE / 160] * 2)
        chosen = [color[names[e["category_id"]]] for e in entries]
        return paint_boxes(SIDE, SIDE, boxes, chosen)

    assert scores("coco_boxes", people, tmp_path, draw)["AP"] > 0.8


def test_poses(people, tmp_path):
    """Every person is asked about in a crop, and its joints are found again in the picture."""

    def draw(item, request, number):
        entries = BENCHMARKS["coco_pose"](people, None, {}).annotations_of(item)
        points = np.array(entries[number]["keypoints"]).reshape(17, 3)
        x, y, w, h = entries[number]["bbox"]
        side = 1.25 * max(w, h)
        points[:, 0] = (points[:, 0] - (x + w / 2 - side / 2)) * SIDE / side - 0.5
        points[:, 1] = (points[:, 1] - (y + h / 2 - side / 2)) * SIDE / side - 0.5
        return draw_pose(SIDE, SIDE, points, LIMBS)

    assert scores("coco_pose", people, tmp_path, draw)["AP"] > 0.8


def test_views(tmp_path):
    """The cameras of an object as a request: the first views first, all axes meeting."""
    model_folder = tmp_path / "GSO30/cup/render_mvs_25/model"
    model_folder.mkdir(parents=True)
    rng, poses = np.random.default_rng(0), []
    for view in range(25):
        centre = rng.normal(size=3)
        centre *= 1.9 / np.linalg.norm(centre)
        back = centre / np.linalg.norm(centre)  # Blender looks along −z
        right = np.cross([0, 0, 1], back)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(back, right), back])
        poses.append(np.c_[rotation, -rotation @ centre])
        np.save(model_folder / f"{view:03}.npy", poses[-1])
        rgba = np.full((64, 64, 4), view * 10, np.uint8)
        Image.fromarray(rgba).save(model_folder / f"{view:03}.png")
    benchmark = GSO30(tmp_path, None, {})
    benchmark.predictions = tmp_path / "N2M25"
    predictor = PREDICTORS["gso30"](benchmark, model(), tmp_path / "N2M25")
    (item,) = benchmark.items
    requests = predictor.requests(item)
    assert [len(r.cameras) for r in requests] == [4] * 7 + [3]  # eight frames hold four views
    assert [int(image[0, 0, 0]) for image in requests[0].images] == [255, 10]  # alpha 0 is white
    c2w = np.linalg.inv([np.r_[pose, [[0, 0, 0, 1]]] for pose in np.array(poses)[[0, 1, 10, 11]]])
    want = cameras_from_transforms(c2w, height=256, width=256, fl_x=280, fl_y=280)
    np.testing.assert_allclose(requests[0].cameras.R, want.R, atol=1e-9)
    np.testing.assert_allclose(requests[0].cameras.T, want.T, atol=1e-9)
    middle = np.array([0, 0, 1.7]) @ want.R + want.T  # where all axes meet
    np.testing.assert_allclose(middle, [[0, 0, 1.7]] * 4, atol=1e-6)
    made = [[np.full((SIDE, SIDE, 3), 7, np.uint8)] * (len(r.cameras) - 2) for r in requests]
    predictor.write(item, made)
    strip = np.asarray(Image.open(tmp_path / "N2M25/cup/0.png")).reshape(256, 25, 256, 3)
    assert (strip[:, 10:] == 7).all() and (strip[:, :10] == 127).all()


def test_prompts_are_answered_four_times(tmp_path):
    metadata = [{"tag": "colors", "include": [], "prompt": "a red cup"}]
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(metadata[0]) + "\n")
    benchmark = BENCHMARKS["geneval"](tmp_path, None, {})
    predictor = PREDICTORS["geneval"](benchmark, model(), tmp_path / "out")
    (item,) = benchmark.items
    assert [r.prompt for r in predictor.requests(item)] == ["a red cup"] * 4
    predictor.write(item, [[np.zeros((16, 16, 3), np.uint8)]] * 4)
    (tmp_path / "out/detections.json").write_text("{}")
    (again,) = BENCHMARKS["geneval"](tmp_path, tmp_path / "out", {}).items
    assert len(again.known["samples"]) == 4 and again.known["metadata"] == metadata[0]


def test_a_task_that_was_not_trained_is_named(tmp_path):
    benchmark = SimpleNamespace(name="bsds500")
    with pytest.raises(ValueError, match="bsds500 asks for image2hed, which this model was not"):
        PREDICTORS["bsds500"](benchmark, model(hed2img=0.0), tmp_path)


def test_predictions_of_other_weights_are_made_anew(tmp_path):
    out = tmp_path / "out"
    assert not prepare_folder(out, {"weights": "a"})
    (out / "1.png").write_bytes(b"x")
    assert not prepare_folder(out, {"weights": "a"}) and (out / "1.png").exists()
    assert prepare_folder(out, {"weights": "b"}) and not (out / "1.png").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(ValueError, match="holds files that this command did not write"):
        prepare_folder(tmp_path / "mine", {"weights": "a"})


def test_shares_and_a_second_start_give_the_same_files(rooms, tmp_path, monkeypatch):
    """Two processes' shares are together what one makes; what is there is not made again."""
    asked = []

    def fake(experiment, steps, guidance):
        def sample(params, requests):
            asked.extend(requests)
            return [[np.full((SIDE, SIDE, 3), r.seed % 251, np.uint8)] for r in requests]

        return sample

    monkeypatch.setattr(base, "_Samplers", fake)
    source = SimpleNamespace(experiment=model(), params=None)

    def files(name, *shares):
        benchmark = BENCHMARKS["ade20k"](rooms, None, {})
        predictor = PREDICTORS["ade20k"](benchmark, model(), tmp_path / name)
        for share in shares:
            base.predict(source, predictor, steps=1, guidance=1.0, seed=3, share=share)
        return {p.name: p.read_bytes() for p in (tmp_path / name).glob("*.png")}

    whole = files("one", (0, 1))
    assert len(whole) == 2 and len({r.seed for r in asked}) == 2
    assert files("two", (1, 2), (0, 2)) == whole
    count = len(asked)
    assert files("one", (0, 1)) == whole and len(asked) == count


def test_every_benchmark_has_a_predictor():
    assert set(PREDICTORS) == set(BENCHMARKS)

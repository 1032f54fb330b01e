"""Files of predictions in the official layouts give the official codes' numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onediff_jax import evaluate as command
from onediff_jax.evaluation.benchmarks.base import LayoutError
from onediff_jax.evaluation.benchmarks.registry import benchmark_of
from onediff_jax.evaluation.benchmarks.scoring import score_predictions

LAYOUTS = Path(__file__).parents[2] / "golden" / "layouts"


def values(name, predictions, folder=None, **options):
    (found,) = score_predictions(name, LAYOUTS / (folder or name), LAYOUTS / predictions, **options)
    return {row.metric: row.value for row in found.rows}, found


@pytest.mark.parametrize(
    "kind, abs_rel, delta1, silog",
    [
        ("depth", 0.054706831773122154, 0.9965659379959106, 6.944809277852376),
        ("disparity", 0.054220697532097496, 0.9959935943285624, 6.917716821034749),
    ],
)
def test_nyuv2_is_aligned_as_its_predictions_grow(kind, abs_rel, delta1, silog):
    found, scored = values("nyuv2", f"nyuv2/predictions_{kind}")
    assert found["abs_rel"] == pytest.approx(abs_rel, rel=1e-5)
    assert found["delta1"] == pytest.approx(delta1, rel=1e-5)
    assert found["silog"] == pytest.approx(silog, rel=1e-5)
    row = scored.rows[0]
    assert row.protocol.endswith(f"aligned in {kind}")
    assert (row.n, row.part, row.paper) == (3, "3 of 654", 0.068)
    assert row.interval[0] <= row.value <= row.interval[1]
    assert "not the published set" in scored.notes[0]
    other = "depth" if kind == "disparity" else "disparity"
    worse, _ = values("nyuv2", f"nyuv2/predictions_{kind}", options={"align": other})
    assert worse["abs_rel"] > abs_rel


def test_ade20k():
    found, _ = values("ade20k", "ade20k/predictions")
    assert found == pytest.approx(
        {
            "miou": 0.19133898615837097,
            "accuracy": 0.9549106955528259,
            "mean_accuracy": 0.9487393498420715,
        },
        abs=1e-6,
    )


def test_cityscapes():
    found, _ = values("cityscapes", "cityscapes/results")
    assert found["miou"] == pytest.approx(0.7850022099699515, abs=1e-9)
    assert found["accuracy"] == pytest.approx(0.9415883421897888, abs=1e-6)


def test_geneval():
    found, scored = values("geneval", "geneval/images")
    assert found == pytest.approx(
        {
            "single_object": 4 / 8,
            "position": 2 / 4,
            "two_object": 1 / 4,
            "colors": 1 / 4,
            "color_attr": 0,
            "counting": 3 / 7,
            "overall": 0.32143,
        },
        abs=1e-5,
    )
    assert next(row.paper for row in scored.rows if row.metric == "overall") == 0.65


def test_bsds500():
    found, _ = values("bsds500", "bsds500/pred")
    assert found["ods"] == pytest.approx(0.9440707266587153, abs=0.01)
    assert found["ois"] == pytest.approx(0.9453871620131915, abs=0.01)
    assert found["ap"] == pytest.approx(0.5477062245842462, abs=0.02)


def test_coco():
    boxes, scored = values("coco_boxes", "coco", "coco")
    assert boxes["AP"] == pytest.approx(0.7977604903347477, abs=1e-9)
    assert boxes["ARm"] == pytest.approx(0.8333333333333333, abs=1e-9)
    assert scored.rows[0].interval[0] < boxes["AP"] < scored.rows[0].interval[1]
    poses, _ = values("coco_pose", "coco/keypoints_results.json", "coco")
    assert poses["AP"] == pytest.approx(0.7329207920792079, abs=1e-9)


def copy_of(tmp_path, name):
    return Path(shutil.copytree(LAYOUTS / name, tmp_path / name))


def test_missing_predictions_are_listed_refused_and_counted_as_the_protocol_does(tmp_path):
    folder = copy_of(tmp_path, "ade20k")
    (folder / "predictions/ADE_val_00000002.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 predictions are missing .*ADE_val_00000002"):
        score_predictions("ade20k", folder, folder / "predictions")
    (found,) = score_predictions("ade20k", folder, folder / "predictions", allow_missing=True)
    assert found.missing == ["ADE_val_00000002"] and found.rows[0].n == 3
    whole, _ = values("ade20k", "ade20k/predictions")
    accuracy = next(row.value for row in found.rows if row.metric == "accuracy")
    assert accuracy < 0.75 * whole["accuracy"]  # a third of the pixels counts as wrong
    assert any("wrong in every pixel" in note for note in found.notes)


def test_a_missing_depth_map_is_left_out(tmp_path):
    folder = copy_of(tmp_path, "nyuv2")
    (folder / "predictions_depth/test/office_0005/pred_0009.png").unlink()
    (found,) = score_predictions("nyuv2", folder, folder / "predictions_depth", allow_missing=True)
    assert found.rows[0].n == 2 and found.rows[0].part == "2 of 654"


def test_predictions_that_do_not_fit_are_all_named(tmp_path):
    folder = copy_of(tmp_path, "nyuv2")
    place = folder / "predictions_depth/test/kitchen_0004"
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(place / "pred_0001.png")
    (place / "pred_0002.png").unlink()
    np.save(place / "pred_0002.npy", np.full((480, 640), np.nan, np.float32))
    with pytest.raises(ValueError, match="2 of 3 predictions cannot be scored") as error:
        score_predictions("nyuv2", folder, folder / "predictions_depth")
    assert "pred_0001.png: it is (24, 32), its truth (480, 640)" in str(error.value)
    assert "pred_0002.npy" in str(error.value) and "not finite" in str(error.value)


def test_pictures_of_another_kind_are_refused(tmp_path):
    """Coloured depth, 16-bit edges, arrays that are cut off, two maps of one street."""
    depth = tmp_path / "depth"
    shutil.copytree(LAYOUTS / "nyuv2/predictions_depth", depth)
    picture = min(depth.rglob("pred_*.png"))
    shade = np.asarray(Image.open(picture))
    file = picture.with_suffix(".npy")
    grey = Image.fromarray(shade)
    grey.convert("RGB").save(picture)
    score_predictions("nyuv2", LAYOUTS / "nyuv2", depth)
    Image.fromarray(np.stack([shade, 255 - shade, shade], -1)).save(picture)
    with pytest.raises(ValueError, match=r"\.png must be grey; it is a picture in colours"):
        score_predictions("nyuv2", LAYOUTS / "nyuv2", depth)
    grey.convert("P").save(picture)
    with pytest.raises(ValueError, match=r"\.png must be grey; it has a palette"):
        score_predictions("nyuv2", LAYOUTS / "nyuv2", depth)
    picture.unlink()
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.npy is cut off"):
        score_predictions("nyuv2", LAYOUTS / "nyuv2", depth)

    edges = tmp_path / "edges"
    shutil.copytree(LAYOUTS / "bsds500/pred", edges)
    for one in edges.glob("*.png"):
        Image.fromarray(np.asarray(Image.open(one)).astype(np.uint16) * 257).save(one)
    with pytest.raises(ValueError, match="must have 8 bits"):
        score_predictions("bsds500", LAYOUTS / "bsds500", edges)

    streets = tmp_path / "streets"
    shutil.copytree(LAYOUTS / "cityscapes/results", streets)
    first = min(streets.rglob("*.png"))
    shutil.copy(first, first.with_name("_".join(first.stem.split("_")[:3]) + "_conf.png"))
    with pytest.raises(LayoutError, match=r"two predictions of .*_conf.png and"):
        score_predictions("cityscapes", LAYOUTS / "cityscapes", streets)


def test_a_truth_without_valid_pixels_has_no_value_and_is_named(tmp_path):
    folder = copy_of(tmp_path, "nyuv2")
    truth = folder / "nyuv2/nyu_labeled_extracted/test/office_0005/depth_0009.png"
    Image.fromarray(np.zeros((480, 640), np.uint16)).save(truth)
    (found,) = score_predictions("nyuv2", folder, folder / "predictions_depth")
    assert np.isnan(found.rows[0].value) and found.rows[0].as_json()["value"] is None
    assert any("rgb_0009" in note for note in found.notes)


def test_a_list_that_is_not_whole_is_refused(tmp_path):
    folder = copy_of(tmp_path, "nyuv2")
    (folder / "nyuv2/nyu_labeled_extracted/test/office_0005/depth_0009.png").unlink()
    with pytest.raises(LayoutError, match=r"names 1 files that are not there: .*depth_0009"):
        score_predictions("nyuv2", folder, folder / "predictions_depth")


def test_another_layout_says_what_was_looked_for():
    with pytest.raises(LayoutError, match=r"looked for .*ade20k/nyuv2/nyu_labeled_extracted"):
        score_predictions("nyuv2", LAYOUTS / "ade20k", LAYOUTS / "ade20k")


def test_geneval_without_detections_says_that_its_networks_are_missing(tmp_path):
    images = shutil.copytree(LAYOUTS / "geneval" / "images", tmp_path / "images")
    with pytest.raises(LayoutError, match=r"networks: give --detector and --clip.*detections.json"):
        score_predictions("geneval", tmp_path, images)


def test_names_of_benchmarks():
    with pytest.raises(ValueError, match="must be NAME:FOLDER; names: nyuv2, diode"):
        benchmark_of("nyuv2")
    with pytest.raises(ValueError, match="'kitti' must be one of nyuv2"):
        benchmark_of("kitti:folder")
    with pytest.raises(LayoutError, match="nowhere is no folder"):
        benchmark_of("dreambench:nowhere")


@pytest.mark.parametrize(
    ("name", "predictions", "labels"),
    [
        ("nyuv2", "nyuv2/predictions_depth", ["given", "predicted", "true", "relative error"]),
        ("ade20k", "ade20k/predictions", ["predicted", "true"]),
        ("cityscapes", "cityscapes/results", ["predicted", "true"]),
        ("bsds500", "bsds500/pred", ["predicted", "true"]),
        ("coco_boxes", "coco", ["predicted", "true"]),
        ("coco_pose", "coco/keypoints_results.json", ["predicted", "true"]),
        ("geneval", "geneval/images", ["right", "wrong"]),
    ],
)
def test_examples_of_every_benchmark_can_be_looked_at(name, predictions, labels):
    _, scored = values(name, predictions, "coco" if name.startswith("coco") else None)
    first = scored.galleries[0]
    assert first.title == f"{scored.rows[0].data}: the first" and 1 <= len(first.cards) <= 4
    seen = [label for card in first.cards for label, _ in card.pictures]
    assert all(any(label.startswith(wanted) for label in seen) for wanted in labels), seen
    for card in first.cards:
        assert card.title
        for _, picture in card.pictures:
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_controls_of_files(tmp_path):
    """Depth: the best constant and another's map; maps and edges: another's; one example: none."""
    _, scored = values("nyuv2", "nyuv2/predictions_depth")
    row = scored.rows[0]
    assert list(row.controls) == ["another's", "best constant"] and row.beats_all
    truth = np.asarray(Image.open(next((LAYOUTS / "nyuv2").rglob("depth_0001.png")))) / 1000.0
    crop = truth[45:471, 41:601]
    crop = crop[(crop > 1e-3) & (crop < 10)]
    (alone,) = score_predictions(
        "nyuv2", LAYOUTS / "nyuv2", LAYOUTS / "nyuv2/predictions_depth", limit=1
    )
    assert alone.rows[0].controls == {}
    spread = np.abs(crop - crop.mean()).mean() / crop.mean()
    assert row.controls["best constant"] == pytest.approx(spread, rel=0.5)
    _, maps = values("ade20k", "ade20k/predictions")
    assert list(maps.rows[0].controls) == ["another's"] and maps.rows[0].beats_all
    _, boxes = values("coco_boxes", "coco", "coco")
    assert boxes.rows[0].controls == {}


def test_the_best_and_the_worst_are_shown_with_their_number(tmp_path):
    """Six maps of one room, each farther from its truth than the one before."""
    layout = tmp_path / "nyu_labeled_extracted/test/kitchen"
    layout.mkdir(parents=True)
    rng = np.random.default_rng(0)
    depth = np.clip(rng.random((480, 640)) * 4000 + 2000, 0, 65535).astype(np.uint16)
    (tmp_path / "out/test/kitchen").mkdir(parents=True)
    for number in range(6):
        Image.fromarray(depth).save(layout / f"depth_{number}.png")
        Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(layout / f"rgb_{number}.png")
        noise = 0.1 * number * rng.random((480, 640))
        np.save(tmp_path / f"out/test/kitchen/pred_{number}.npy", depth / 1000 + noise)
    (scored,) = score_predictions("nyuv2", tmp_path, tmp_path / "out")
    assert [g.title.split()[-1] for g in scored.galleries] == ["first", "best", "worst"]
    names = [[Path(card.title).stem for card in g.cards] for g in scored.galleries[1:]]
    assert names == [[f"rgb_{i}" for i in (0, 1, 2, 3)], [f"rgb_{i}" for i in (5, 4, 3, 2)]]
    assert scored.galleries[1].cards[0].words.startswith("abs_rel 0.000")


def test_the_command_needs_no_model(tmp_path, capsys):
    arguments = [
        f"--predictions={LAYOUTS}/ade20k/predictions",
        f"--benchmark=ade20k:{LAYOUTS}/ade20k",
        f"--out={tmp_path}",
    ]
    assert command.main(arguments) == 0
    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    row = found["rows"][0]
    assert row["task"] == "image2semanticmap" and row["metric"] == "miou"
    assert row["value"] == pytest.approx(0.191339, abs=1e-6) and row["n"] == 3
    assert found["source"] == arguments[0].split("=")[1]
    assert "0.191" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "3 of 2000" in page and "http" not in page


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--predictions=x"], "--predictions goes with --benchmark"),
        ([], "give --source"),
        (
            ["--predictions=x", "--benchmark=ade20k:y", "--tasks=image2depth"],
            "not of --predictions",
        ),
        (["--predictions=x", f"--benchmark=ade20k:{LAYOUTS}/ade20k"], "x does not exist"),
        (["--predictions=x", "--benchmark=ade20k:nowhere"], "nowhere is no folder"),
        (["--predictions=x", "--benchmark=ade20k:y", "--limit=0"], "--limit=0 must be positive"),
    ],
)
def test_bad_input_is_one_message(arguments, message, tmp_path, capsys):
    assert command.main([*arguments, f"--out={tmp_path / 'out'}"]) == 1
    assert message in capsys.readouterr().err

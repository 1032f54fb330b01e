"""Detectors and pose estimators on small random-weight models, saved in this test."""

import numpy as np
import pytest

from onediff_jax.data.annotate import Annotator
from onediff_jax.data.detect import Box, Detector, PoseEstimator
from onediff_jax.data.sources import BadRecord, RawExample
from onediff_jax.tasks import colors
from onediff_jax.tasks.pose import LIMBS, draw_pose

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def yolos(folder, labels):
    config = transformers.YolosConfig(
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 16, "image_size": [32, 32], "patch_size": 16},
        num_detection_tokens=5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = transformers.YolosForObjectDetection(config)
    # The last class, "nothing", is unlikely: something is always found.
    model.class_labels_classifier.layers[-1].bias.data[-1] = -20
    model.save_pretrained(folder)
    transformers.YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def owl(folder):
    folder.mkdir()
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], pad_token="a"
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    text = small | {"vocab_size": len(words), "max_position_embeddings": 16}
    text |= {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 0}
    vision = small | {"image_size": 32, "patch_size": 16}
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.Owlv2ForObjectDetection(config)
    model.class_head.logit_shift.bias.data += 5  # some words are found everywhere
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = transformers.Owlv2ImageProcessor(size=size)
    transformers.Owlv2Processor(processor, tokenizer).save_pretrained(folder)


def grounding_dino(folder):
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"model_type": "bert", "vocab_size": len(words), "intermediate_size": 16}
    swin = transformers.SwinConfig(
        **{"image_size": 96, "patch_size": 4, "embed_dim": 8, "window_size": 2},
        **{"depths": [1] * 4, "num_heads": [1] * 4},
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.GroundingDinoConfig(
        **{"backbone_config": swin, "text_config": text, "d_model": 32, "max_text_len": 16},
        **{"encoder_layers": 1, "decoder_layers": 2, "num_queries": 5},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "disable_custom_kernels": True},
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 128}
    processor = transformers.GroundingDinoImageProcessor(size=size)
    transformers.GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)


def vitpose(folder):
    backbone = transformers.VitPoseBackboneConfig(
        **{"image_size": [64, 48], "patch_size": [16, 16], "hidden_size": 16},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "out_indices": [1]},
    )
    names = {number: str(number) for number in range(17)}
    config = transformers.VitPoseConfig(
        backbone_config=backbone,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        use_simple_decoder=True,
    )
    model = transformers.VitPoseForPoseEstimation(config)
    model.head.conv.bias.data[:12] += 3  # twelve keypoints are seen, five are not
    model.head.conv.bias.data[12:] -= 3
    model.save_pretrained(folder)
    size = {"height": 64, "width": 48}
    transformers.VitPoseImageProcessor(size=size).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yolos(folder / "yolos", ["person"])
    yolos(folder / "animals", ["cat", "a <b>"])
    owl(folder / "owl")
    grounding_dino(folder / "dino")
    vitpose(folder / "vitpose")
    yield folder
    torch.set_num_threads(threads)


def example() -> RawExample:
    return RawExample("a.png", "text2image", (IMAGE,), (("a man",),), group="g")


def test_boxes_of_a_models_own_classes(models):
    """In pixels of the picture, as the library's own pipeline gives them."""
    found = Detector(transformers, str(models / "yolos"), "cpu")(IMAGE)
    pipeline = transformers.pipeline("object-detection", model=str(models / "yolos"))
    from PIL import Image

    want = sorted(pipeline(Image.fromarray(IMAGE), threshold=0.3), key=lambda one: -one["score"])
    assert len(found) == len(want) == 5 and {box.label for box in found} == {"person"}
    for box, one in zip(found, want, strict=True):
        corners = [one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
        np.testing.assert_allclose(box.corners, corners, atol=1)


def test_open_vocabulary_finds_what_words_name(models):
    detector = Detector(transformers, str(models / "owl"), "cpu", ("cat", "dog"))
    found = detector(IMAGE)
    assert found and {box.label for box in found} <= {"cat", "dog"}
    with pytest.raises(ValueError, match="--annotate_labels=person,dog"):
        Detector(transformers, str(models / "owl"), "cpu")


def test_phrases_of_a_grounded_detector_name_the_words(models):
    """It says parts of its prompt, with stops and markers: the longest wanted word in it counts."""
    detector = Detector(transformers, str(models / "dino"), "cpu", ("cat", "dog"))
    found = detector(IMAGE)
    assert found and {box.label for box in found} <= {"cat", "dog"}
    assert all(0 <= value <= 64 for box in found for value in box.corners)
    detector._labels = ("cat", "black cat", "dog")
    names = map(detector._named, ("a black cat. [SEP]", "Cat..", "category", ".. [SEP]"))
    assert list(names) == ["black cat", "cat", None, None]


def test_boxes_become_an_example(models):
    annotator = Annotator({"boxes": str(models / "owl")}, labels=("cat", "dog"))
    ((plain, one),) = annotator.annotate([example()])
    assert plain.task == "text2image" and one.task == "boundingbox2image"
    assert one.extras["annotated_by"] == str(models / "owl")
    painted = {tuple(rgb) for rgb in one.images[1].reshape(-1, 3).tolist()} - {(0, 0, 0)}
    assert painted == {tuple(colors.rgb(name)) for name, _ in one.regions}
    assert {label for _, label in one.regions} <= {"cat", "dog"}
    animals = Annotator({"boxes": str(models / "animals")}, labels=("a <b>",))
    ((_, bad),) = animals.annotate([example()])
    assert isinstance(bad, BadRecord) and bad.reason in ("bad_labels", "failed_annotation")


def test_poses_of_the_people_that_are_found(models, monkeypatch):
    """In pixels; a keypoint of little confidence is not drawn."""
    people = Detector(transformers, str(models / "yolos"), "cpu", ("person",))
    estimator = PoseEstimator(transformers, str(models / "vitpose"), "cpu", people)
    boxes = [Box("person", (8.0, 4.0, 40.0, 44.0)), Box("dog", (0.0, 0.0, 9.0, 9.0))]
    monkeypatch.setattr(estimator, "_people", lambda image: boxes)
    (points,) = estimator(IMAGE)
    assert points.shape == (17, 3) and points[:, 2].tolist() == [1] * 12 + [0] * 5
    reach = 1.25 * 40  # the box is widened to the model's shape
    assert (np.abs(points[:12, :2] - [24, 24]) <= reach).all()
    monkeypatch.setattr(estimator, "_people", lambda image: boxes[1:])
    assert estimator(IMAGE) == []


def test_poses_become_an_example(models, monkeypatch):
    chosen = {"pose": str(models / "vitpose"), "people": str(models / "yolos")}
    annotator = Annotator(chosen)
    ((_, one),) = annotator.annotate([example()])
    assert one.task == "pose2image" and one.images[1].shape == IMAGE.shape
    points = annotator._pipes["pose"](IMAGE)
    want = np.maximum.reduce([draw_pose(48, 64, person, LIMBS) for person in points])
    np.testing.assert_array_equal(one.images[1], want)
    monkeypatch.setattr(annotator._pipes["pose"], "_people", lambda image: [])
    ((_, bad),) = annotator.annotate([example()])
    assert isinstance(bad, BadRecord) and bad.detail == "no person was found"


def test_wrong_models(models):
    with pytest.raises(ValueError, match="for people: it knows no 'person'; its labels are"):
        Annotator({"pose": str(models / "vitpose"), "people": str(models / "animals")})
    with pytest.raises(ValueError, match="cannot be loaded for boxes"):
        Annotator({"boxes": str(models / "vitpose")})

"""Networks for measures: tiny random ones that the real libraries wrote."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from onediff_jax.evaluation import networks
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.networks import open_networks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """clip, dino and detector as transformers saves them, with random weights."""
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = words + [f"{c}</w>" for c in words[2:]]
    (root / "clip").mkdir()
    (root / "clip/vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (root / "clip/merges.txt").write_text("#version: 0.2\n")
    text = small | {"vocab_size": len(vocabulary), "max_position_embeddings": 24}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = small | {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(root / "clip")
    tokenizer = transformers.CLIPTokenizer(
        str(root / "clip/vocab.json"), str(root / "clip/merges.txt"), model_max_length=24
    )
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    images = transformers.CLIPImageProcessor(**sizes)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(root / "clip")
    config = transformers.ViTConfig(**small, image_size=32, patch_size=16)
    transformers.ViTModel(config).save_pretrained(root / "dino")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "dino")
    return root


def test_clip_and_dino_are_the_librarys(folders):
    """Unit vectors, equal to transformers' own on the same input."""
    found = open_networks({"clip": str(folders / "clip"), "dino": str(folders / "dino")})
    for name in ("clip", "dino"):
        vectors = found[name].pictures(PICTURES)
        assert vectors.shape[0] == 3
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        alone = found[name].pictures(PICTURES[1:2])
        np.testing.assert_allclose(alone[0], vectors[1], rtol=1e-4, atol=1e-5)
    model = transformers.ViTModel.from_pretrained(folders / "dino").eval()
    given = transformers.ViTImageProcessor.from_pretrained(folders / "dino")(
        images=[Image.fromarray(p) for p in PICTURES], return_tensors="pt"
    )
    with torch.no_grad():
        want = model(**given).last_hidden_state[:, 0].numpy()
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(found["dino"].pictures(PICTURES), want, rtol=1e-4, atol=1e-5)
    texts = found["clip"].texts(["a red cup", "a dog"])
    assert texts.shape == (2, 8) and not np.allclose(texts[0], texts[1])


@pytest.fixture
def dreams(tmp_path):
    """DreamBench with two subjects, and predictions that are one's own real pictures."""
    listing = (
        "Classes\n\nsubject_name,class\ncup1,cup\ncat,cat\n\nPrompts\n\nObject Prompts\n\n"
        "prompt_list = [\n'a {0} {1} in the snow'.format(unique_token, class_token),\n]\n\n"
        "Live Subject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} wearing a hat'.format(unique_token, class_token)\n]\n"
    )
    for subject, picture in (("cup1", PICTURES[0]), ("cat", PICTURES[1])):
        (tmp_path / "dataset" / subject).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / f"dataset/{subject}/00.png")
        (tmp_path / "made" / subject / "00").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / f"made/{subject}/00/0.png")
    (tmp_path / "dataset/prompts_and_classes.txt").write_text(listing)
    return tmp_path


def test_dreambench(folders, dreams):
    items = BENCHMARKS["dreambench"](dreams, None, {}).items
    assert [(i.name, i.known["prompt"]) for i in items] == [
        ("cup1/00", "a cup in the snow"),
        ("cat/00", "a cat wearing a hat"),
    ]
    named = {"clip": str(folders / "clip"), "dino": str(folders / "dino")}
    opened = open_networks(named)
    (found,) = score_predictions("dreambench", dreams, dreams / "made", options=opened)
    values = {row.metric: row.value for row in found.rows}
    assert values["dino"] == pytest.approx(1, abs=1e-5)  # the very pictures
    assert values["clip_image"] == pytest.approx(1, abs=1e-5)
    assert -1 <= values["clip_text"] < 1
    only = {"dino": opened["dino"]}
    (found,) = score_predictions("dreambench", dreams, dreams / "made", options=only)
    assert [row.metric for row in found.rows] == ["dino"]
    with pytest.raises(ValueError, match="give --dino or --clip"):
        score_predictions("dreambench", dreams, dreams / "made")


@pytest.mark.skipif(not importlib.util.find_spec("lpips"), reason="needs lpips' linear weights")
def test_lpips_of_a_file(tmp_path):
    """A trunk of torchvision's names and the lpips package's own linear weights."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3)}
    shapes[10] = (256, 256, 3)
    trunk = {}
    torch.manual_seed(0)
    for layer, (out, given, side) in shapes.items():
        trunk[f"features.{layer}.weight"] = 0.05 * torch.randn(out, given, side, side)
        trunk[f"features.{layer}.bias"] = torch.zeros(out)
    torch.save(trunk, tmp_path / "alex.pth")
    lpips = open_networks({"lpips": str(tmp_path / "alex.pth")})["lpips"]
    first, second = (np.kron(p[:32, :32], np.ones((2, 2, 1), np.uint8)) for p in PICTURES[:2])
    assert lpips(first, first) == 0 and lpips(first, second) > 0


def test_the_detector_sees_boxes_and_colours(folders, tmp_path, monkeypatch):
    """Masks of the library's own Mask2Former as boxes; a colour where the prompt asks for one."""
    backbone = transformers.SwinConfig(
        **{"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
        **{"window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        **{"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1},
        **{"encoder_feedforward_dim": 16, "dim_feedforward": 16, "decoder_layers": 2},
        **{"num_attention_heads": 2, "num_queries": 5},
        id2label={0: "mouse", 1: "dog"},
    )
    torch.manual_seed(1)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path / "net")
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(
        tmp_path / "net"
    )
    monkeypatch.setattr(networks, "_LEAST", 0.0)
    Image.fromarray(PICTURES[0]).save(tmp_path / "picture.png")
    named = {"clip": str(folders / "clip"), "detector": str(tmp_path / "net")}
    detector = open_networks(named)["detector"]
    asked = {"include": [{"class": "computer mouse", "count": 1, "color": "red"}]}
    found = detector(tmp_path / "picture.png", asked)
    assert set(found) <= {"computer mouse", "dog"} and found
    for label, boxes in found.items():
        for x0, y0, x1, y1, score, color in boxes:
            assert 0 <= x0 < x1 <= 48 and 0 <= y0 < y1 <= 40 and 0 <= score <= 1
            assert (color in networks._COLORS) == (label == "computer mouse")


def test_what_cannot_be_opened_names_its_flag(tmp_path, folders):
    with pytest.raises(ValueError, match="--dino=.*nothing cannot be opened"):
        open_networks({"dino": str(tmp_path / "nothing")})
    with pytest.raises(ValueError, match="--detector sees objects; GenEval's colours need --clip"):
        open_networks({"detector": str(folders / "dino")})
    assert open_networks({"clip": None, "lpips": None}) == {}

"""Annotators on small random-weight models, saved in this test."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from onediff_jax.data import annotate
from onediff_jax.data.annotate import Annotator
from onediff_jax.data.sources import BadRecord, RawExample
from onediff_jax.tasks import colors
from onediff_jax.tasks.depth import Normalisation, depth_from_image

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

LABELS = ["wall", "sheep", "grass", "a <b>"]


def segformer(folder, labels, bias=None):
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[1, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=5.0)
    if bias is not None:
        model.decode_head.classifier.bias.data = torch.tensor(bias)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)


def glpn(folder):
    config = transformers.GLPNConfig(
        num_encoder_blocks=4,
        depths=[1] * 4,
        sr_ratios=[1] * 4,
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        mlp_ratios=[1] * 4,
        decoder_hidden_size=8,
        max_depth=10,
    )
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)
    transformers.GLPNImageProcessor().save_pretrained(folder)


def dpt(folder):
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        head_in_channels=8,
    )
    transformers.DPTForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.DPTImageProcessor(size=size, keep_aspect_ratio=False).save_pretrained(folder)


def blip(folder):
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "cat", "on", "sofa"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 16}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = small | ids | {"vocab_size": len(words), "encoder_hidden_size": 16}
    vision = small | {"image_size": 32, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.BlipForConditionalGeneration(config)
    # Random weights would often stop at once: words are made likelier than the end.
    model.text_decoder.cls.predictions.bias.data[6:] += 2
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = transformers.BlipImageProcessor(size=size)
    transformers.BlipProcessor(processor, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small to share among cores
    torch.manual_seed(0)
    segformer(folder / "segment", LABELS[:3])
    segformer(folder / "odd", LABELS, [-1e6, -1e6, -1e6, 1e6])
    segformer(folder / "edges", ["edge"])
    glpn(folder / "glpn")
    dpt(folder / "dpt")
    blip(folder / "blip")
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def examples() -> list[RawExample]:
    found = []
    for seed, (height, width) in enumerate([(48, 64), (64, 48), (64, 64)]):
        noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
        image = np.asarray(Image.fromarray(noise).resize((width, height)))
        captions = (("written by hand",),) if seed == 0 else ((),)
        found.append(RawExample(f"{seed}.png", "text2image", (image,), captions, group="g"))
    return found


def test_relative_depth_fills_the_range(models, examples):
    results = Annotator({"depth": str(models / "dpt")}, batch_size=2).annotate(examples)
    for example, (same, depth) in zip(examples, results, strict=True):
        assert same is example
        assert (depth.task, depth.key, depth.group) == ("depth2image", example.key, "g")
        assert depth.images[1].shape == example.images[0].shape
        assert depth.images[1].min() == 1 and depth.images[1].max() == 255
        assert depth.depth_norm is None and depth.extras["depth"] == "relative"
        assert depth.captions == (example.captions[0], ())


def test_metric_depth_keeps_its_metres(models, examples):
    annotator = Annotator({"depth": str(models / "glpn")})
    for _, depth in annotator.annotate(examples):
        norm = Normalisation(**depth.depth_norm)
        assert 0 < norm.near < norm.far <= 10
        metres = depth_from_image(depth.images[1], norm)
        assert norm.near * 0.99 < metres.min() and metres.max() < norm.far * 1.01


def test_segments_are_painted_with_matching_regions(models, examples):
    annotator = Annotator({"segmentation": str(models / "segment")})
    for example, (_, record) in zip(examples, annotator.annotate(examples), strict=True):
        assert record.task == "semanticmap2image"
        assert {label for _, label in record.regions} <= set(LABELS)
        painted = {
            tuple(int(v) for v in c) for c in np.unique(record.images[1].reshape(-1, 3), axis=0)
        }
        assert painted == {colors.rgb(color) for color, _ in record.regions}
        assert record.images[1].shape == example.images[0].shape


def test_labels_that_no_prompt_can_hold_are_bad_records(models, examples):
    annotator = Annotator({"segmentation": str(models / "odd")})
    for example, (_, record) in zip(examples, annotator.annotate(examples), strict=True):
        assert record == BadRecord(f"{example.key}#segmentation", "bad_labels", record.detail)


def test_captions_go_where_there_is_none(models, examples):
    results = Annotator({"caption": str(models / "blip")}, max_caption_tokens=6).annotate(examples)
    assert results[0] == [examples[0]]
    for result, example in zip(results[1:], examples[1:], strict=True):
        (record,) = result
        (text,) = record.captions[0]
        assert set(text.split()) <= {"a", "cat", "on", "sofa"}
        assert record.extras == {"captioned_by": str(models / "blip")}
        assert record.images[0] is example.images[0]


def test_soft_edges_from_both_kinds_of_models(models, examples):
    for name in ("edges", "dpt"):
        annotator = Annotator({"hed": str(models / name)})
        for example, (_, record) in zip(examples, annotator.annotate(examples), strict=True):
            assert record.task == "hed2img"
            edges = record.images[1]
            assert edges.shape == example.images[0].shape
            assert (edges == edges[..., :1]).all() and edges.max() > edges.min()
    with pytest.raises(ValueError, match="soft edges need one label"):
        Annotator({"hed": str(models / "segment")})


def test_several_at_once_and_always_the_same(models, examples):
    chosen = {"depth": "dpt", "segmentation": "segment", "caption": "blip", "hed": "edges"}
    annotator = Annotator({kind: str(models / name) for kind, name in chosen.items()})
    first, second = annotator.annotate(examples), annotator.annotate(examples)
    assert [[r.task for r in result] for result in first] == [
        ["text2image", "depth2image", "semanticmap2image", "hed2img"]
    ] * 3
    for ours, theirs in zip(first, second, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.captions == b.captions and a.regions == b.regions
            assert all((x == y).all() for x, y in zip(a.images, b.images, strict=True))
    assert first[1][1].captions[0] == first[1][0].captions[0] != ()


def test_a_model_that_gives_nothing_is_a_bad_record(models, examples):
    annotator = Annotator({"depth": str(models / "dpt")})
    for parameter in annotator._pipes["depth"].model.parameters():
        parameter.data.zero_()
    for _, record in annotator.annotate(examples):
        assert isinstance(record, BadRecord) and record.reason == "failed_annotation"


def test_parse():
    assert annotate.parse("depth=a/b, caption=c") == {"depth": "a/b", "caption": "c"}
    assert annotate.parse("") == {}
    with pytest.raises(ValueError, match="unknown annotation 'gaze'; choose from .*'pose', 'hed'"):
        annotate.parse("gaze=x")
    with pytest.raises(ValueError, match=r"go together; found \['pose'\]"):
        annotate.parse("pose=x")
    for wrong in ("depth", "depth=", "depth=a,depth=b"):
        with pytest.raises(ValueError, match="one model for depth"):
            annotate.parse(wrong)


def test_wrong_use(models, examples, tmp_path):
    with pytest.raises(ValueError, match="unknown annotation 'gaze'"):
        Annotator({"gaze": "x"})
    with pytest.raises(ValueError, match=r"go together; found \['people'\]"):
        Annotator({"people": "x"})
    with pytest.raises(ValueError, match="cannot be loaded for depth"):
        Annotator({"depth": str(tmp_path)})
    annotator = Annotator({"depth": str(models / "dpt")})
    pair = annotator.annotate(examples[:1])[0][1]
    with pytest.raises(ValueError, match="pictures are annotated, not depth2image"):
        annotator.annotate([pair])


def test_nothing_heavy_is_imported_before_use():
    code = "import sys, onediff_jax.data.annotate; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

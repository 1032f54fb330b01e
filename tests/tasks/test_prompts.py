"""Prompts: exact strings."""

import pytest

from onediff_jax.tasks import prompts


@pytest.mark.parametrize(
    "args,kwargs,expected",
    [
        (("text2image", "a red cube"), {}, "[[text2image]] a red cube"),
        (("depth2image", ""), {}, "[[depth2image]]"),
        (("faceid",), {}, "[[faceid]]"),
        (("image_editing", " make it night "), {}, "[[image_editing]] make it night"),
        (("multiview", "a car"), {}, "[[multiview]] a car"),
        (
            ("semanticmap2image", "a farm"),
            {"regions": [("cyan", "sheep"), ("darkorange", "grass")]},
            (
                "[[semanticmap2image]] <#00FFFF cyan mask: sheep> <#FF8C00 darkorange mask: grass> "
                "a farm"
            ),
        ),
        (
            ("boundingbox2image",),
            {"regions": [("red", "red car")]},
            "[[boundingbox2image]] <#FF0000 red boundingbox: red car>",
        ),
        (
            ("faceid", "in a park"),
            {"sources": ["at home", "by the sea"]},
            "[[faceid]] [[img0]] in a park [[img1]] at home [[img2]] by the sea",
        ),
        (
            ("subject_driven", "on a table"),
            {"item": "backpack", "sources": [""]},
            "[[subject_driven]] <item: backpack> [[img0]] on a table [[img1]]",
        ),
    ],
)
def test_build(args, kwargs, expected):
    assert prompts.build(*args, **kwargs) == expected


def test_regions_round_trip():
    regions = [("cyan", "sheep"), ("orchid", "a tree, far away"), ("navy", "sky")]
    for task in ("semanticmap2image", "boundingbox2image"):
        assert prompts.parse_regions(prompts.build(task, "caption", regions=regions)) == regions
    assert prompts.parse_regions("[[depth2image]] a <b> c") == []
    assert prompts.parse_regions("<#00ffff Cyan mask: dog>") == [("cyan", "dog")]


def test_split_token():
    assert prompts.split_token("[[canny2image]]  a cat") == ("canny2image", "a cat")
    with pytest.raises(ValueError, match="must start with a token"):
        prompts.split_token("a cat [[canny2image]]")
    with pytest.raises(ValueError, match="unknown task 'cat'.*canny2image"):
        prompts.split_token("[[cat]] x")


@pytest.mark.parametrize(
    "args,kwargs,match",
    [
        (("depth",), {}, "unknown task"),
        (("depth2image",), {"regions": [("cyan", "x")]}, "no regions.*semanticmap2image"),
        (("semanticmap2image",), {"regions": [("beige", "x")]}, "unknown colour 'beige'.*orchid"),
        (("semanticmap2image",), {"regions": [("cyan", "x>")]}, "label"),
        (("semanticmap2image",), {"regions": [("cyan", " ")]}, "label"),
        (("subject_driven", "x"), {}, "needs item"),
        (("faceid", "x"), {"item": "cat"}, "belongs to subject_driven"),
        (("depth2image", "x"), {"sources": ["y"]}, "no sources.*faceid"),
    ],
)
def test_errors(args, kwargs, match):
    with pytest.raises(ValueError, match=match):
        prompts.build(*args, **kwargs)


def test_colour_code_and_name_must_agree():
    with pytest.raises(ValueError, match="#00FFFF is cyan"):
        prompts.parse_regions("<#00FFFF red mask: dog>")
    with pytest.raises(ValueError, match="unknown colour 'grey'"):
        prompts.parse_regions("<#808080 grey mask: dog>")


@pytest.mark.parametrize(
    "prompt, want",
    [
        (prompts.build("depth2image", "a <cup> on grass"), "[[depth2image]]"),
        (prompts.build("depth2image"), "[[depth2image]]"),
        (prompts.build("faceid", "a man", sources=["a face", ""]), "[[faceid]]"),
        (
            prompts.build(
                "semanticmap2image", "two", regions=[("cyan", "sheep"), ("red", "grass")]
            ),
            "[[semanticmap2image]] <#00FFFF cyan mask: sheep> <#FF0000 red mask: grass>",
        ),
        (prompts.build("subject_driven", "a cup", item="cup"), "[[subject_driven]] <item: cup>"),
        ("", ""),
        ("words alone", ""),
    ],
)
def test_without_caption(prompt, want):
    assert prompts.without_caption(prompt) == want

import numpy as np
import pytest
from PIL import Image

from onediff_jax.data import conditioning
from onediff_jax.data.sources import RawExample
from onediff_jax.tasks import conditions, degrade
from onediff_jax.tasks.definitions import TASKS


@pytest.fixture
def example() -> RawExample:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((128, 96), Image.Resampling.BICUBIC))
    return RawExample("a.png", "text2image", (image,), (("a", "b"),), group="g")


def test_every_maker_gives_a_different_condition_of_a_known_task(example):
    made = conditioning.derive(example, list(conditioning.MAKERS))
    assert [r.task for r in made] == list(conditioning.MAKERS)
    for record in made:
        assert record.task in TASKS and (record.key, record.group) == ("a.png", "g")
        assert record.captions == (("a", "b"), ())
        target, condition = record.images
        assert target is example.images[0]
        assert condition.shape == target.shape and condition.dtype == np.uint8
        assert (condition != target).any()


def test_draws_belong_to_key_task_and_seed(example):
    def condition(task="image_inpainting", seed=0, record=example):
        return conditioning.derive(record, [task], seed=seed)[0].images[1]

    assert (condition() == condition()).all()
    assert (condition() != condition(seed=1)).any()
    other = RawExample("b.png", "text2image", example.images, ((),))
    assert (condition() != condition(record=other)).any()
    thresholds = {condition("canny2image", seed).tobytes() for seed in range(8)}
    assert len(thresholds) > 4
    sizes = {condition("super_resolution", seed).tobytes() for seed in range(8)}
    assert sizes == {degrade.downscale(example.images[0], f).tobytes() for f in degrade.FACTORS}
    assert (condition("hed2img") == conditions.soft_edges(example.images[0])).all()


def test_the_hole_is_black_and_the_rest_untouched(example):
    image, masked = conditioning.derive(example, ["image_inpainting"])[0].images
    hole = (masked == 0).all(-1) & (image != 0).any(-1)
    assert 0.05 < hole.mean() < 0.6
    assert (masked[~hole] == image[~hole]).all()


def test_some_of_the_tasks(example):
    tasks = ["text2image", *conditioning.MAKERS]
    assert conditioning.derive(example, tasks)[0] is example
    for count in range(len(tasks) + 1):
        made = [r.task for r in conditioning.derive(example, tasks, count=count)]
        assert len(made) == count and made == [t for t in tasks if t in made]
    drawn = {conditioning.derive(example, tasks, count=1, seed=s)[0].task for s in range(60)}
    assert drawn == set(tasks)


def test_wrong_use(example):
    with pytest.raises(ValueError, match="no condition for 'depth2image' from a picture; choose"):
        conditioning.derive(example, ["depth2image"])
    with pytest.raises(ValueError, match="names a task twice"):
        conditioning.derive(example, ["hed2img", "hed2img"])
    with pytest.raises(ValueError, match="count=3"):
        conditioning.derive(example, ["hed2img"], count=3)
    pair = conditioning.derive(example, ["hed2img"])[0]
    with pytest.raises(ValueError, match="conditions come from text2image"):
        conditioning.derive(pair, ["hed2img"])

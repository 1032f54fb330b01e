"""A model's own predictions of every benchmark, written as files in the benchmark's layout."""

from onediff_jax.evaluation.predicting.base import Predictor
from onediff_jax.evaluation.predicting.maps import (
    BoxPredictor,
    ClassPredictor,
    DepthPredictor,
    EdgePredictor,
    PosePredictor,
)
from onediff_jax.evaluation.predicting.pictures import (
    EditPredictor,
    PromptPredictor,
    SubjectPredictor,
    ViewPredictor,
)

PREDICTORS: dict[str, type[Predictor]] = {
    "nyuv2": DepthPredictor,
    "diode": DepthPredictor,
    "gso30": ViewPredictor,
    "geneval": PromptPredictor,
    "pie": EditPredictor,
    "bsds500": EdgePredictor,
    "ade20k": ClassPredictor,
    "cityscapes": ClassPredictor,
    "coco_boxes": BoxPredictor,
    "coco_pose": PosePredictor,
    "dreambench": SubjectPredictor,
}

__all__ = ["PREDICTORS", "Predictor"]

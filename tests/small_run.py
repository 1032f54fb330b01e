"""A config file for commands that tests start: steps of milliseconds, one program to compile."""

from ml_collections import ConfigDict

from tests.experiments import shrunken

CONFIG = {
    "rows": (("identity", 1, 3, 4),),
    "model__depth": 1,
    "train__batch_rows": 8,
    "train__steps": 1000000,  # the tests stop it
    # Small steps, and far from the sign of a gradient: sums in another order change little.
    "optim__schedule": "constant",
    "optim__learning_rate": 1e-4,
    "optim__eps": 1e-4,
    "checkpoint__every_steps": 4,
    **{
        f"data__tasks__{name}": 0.0
        for name in ("text2image", "depth2image", "image_inpainting", "multiview")
    },
}


def get_config() -> ConfigDict:
    """Of the command line."""
    return shrunken(**CONFIG)

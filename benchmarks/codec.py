"""What the light codec keeps of a picture, and the statistics that its constants come from.

    python benchmarks/codec.py [--scenes=12] [--images=FOLDER]

PSNR in dB of uint8 pictures encoded, decoded and rounded, from the mean squared error over all
pictures of a cell of the table. Targets and conditions of every task are those that presets train
on: tiny (level simple, 64 × 64) and base (rich, about 256 × 256). Photographs come from --images,
from matplotlib and from scikit-learn where these are installed; each at its own size, and with the
shorter side brought to 256 pixels.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import preset
from photographs import SHORTER, photographs, shortened, whole_blocks
from timing import progress, table

from onediff_jax.data.codec import _MEAN, _STD, LightCodec, to_uint8
from onediff_jax.experiment.build import make_experiment
from onediff_jax.tasks.definitions import TASKS

CODEC = LightCodec()


def psnr(pictures: Sequence[np.ndarray]) -> float:
    """Of the round trip of all pictures together, in dB."""
    errors = [
        (to_uint8(CODEC.decode(CODEC.encode(p))) - p.astype(np.float32)) ** 2 for p in pictures
    ]
    error = sum(e.sum() for e in errors) / sum(e.size for e in errors)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def coefficients(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(blocks, 16): latents as the transform gives them, before the constants."""
    latents = [CODEC.encode(p).reshape(-1, CODEC.channels) for p in pictures]
    return np.concatenate(latents) * CODEC.scale + CODEC.mean


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints three tables and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12, help="per task and preset")
    parser.add_argument("--images", help="folder of photographs")
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    presets, tasks = ("tiny", "base"), tuple(TASKS)
    if args.smoke:
        args.scenes, presets, tasks = 1, presets[:1], tasks[:2]

    found: dict[tuple[str, str], tuple[list, list]] = {}  # preset, task → targets, conditions
    for name in presets:
        experiment = make_experiment(preset.load(name))
        for task in tasks:
            progress(f"{name}: {task}")
            bundles = [experiment.bundles(task)[number] for number in range(args.scenes)]
            frames = [[f for f in bundle.frames if f.dtype == np.uint8] for bundle in bundles]
            found[name, task] = ([f[0] for f in frames], [c for f in frames for c in f[1:]])
    values = {case: [psnr(part) if part else "" for part in both] for case, both in found.items()}
    table(
        ("PSNR, dB", *(f"{name}, {part}" for name in presets for part in ("target", "condition"))),
        ((task, *(value for name in presets for value in values[name, task])) for task in tasks),
    )
    print()
    photos = [
        (name, whole_blocks(p), whole_blocks(shortened(p))) for name, p in photographs(args.images)
    ]
    table(
        ("PSNR, dB", "its size", "", f"shorter side {SHORTER}"),
        (
            (name, "{} × {}".format(*own.shape), psnr([own]), psnr([small]))
            for name, own, small in photos
        ),
    )
    print()
    every = [coefficients([*a, *b]) for a, b in found.values()]
    mean = np.mean([c.mean(0) for c in every], 0)  # every task and preset weighs the same
    std = np.sqrt(np.mean([((c - mean) ** 2).mean(0) for c in every], 0))
    table(
        ("channel", "mean", "constant", "std", "constant"),
        ([n, *map(float, (mean[n], _MEAN[n], std[n], _STD[n]))] for n in range(len(_MEAN))),
    )
    worst = min((v, case) for case, both in values.items() for v in both if v != "")
    unit = float(np.mean([(((c - CODEC.mean) / CODEC.scale) ** 2).mean() for c in every]))
    print(
        f"\nThe least is kept of {worst[1][1]} in {worst[1][0]}, {worst[0]:.1f} dB"
        + "".join(f"; {name}: {psnr([small]):.1f} dB" for name, _, small in photos)
        + f". With the constants, latents have a mean square of {unit:.2f}."
    )


if __name__ == "__main__":
    main()

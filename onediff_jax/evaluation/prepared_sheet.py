"""A contact sheet of a prepared folder: what training will see, drawn from what is stored."""

from pathlib import Path

import numpy as np
from PIL import Image

from onediff_jax.data.codec import LightCodec
from onediff_jax.data.prepared.reader import Decoding, PreparedFolder, Stored
from onediff_jax.evaluation.sheet import draw_sheet
from onediff_jax.sampling.show import picture


def draw_folder(
    folder: str | Path, out: str | Path, *, count: int = 24, seed: int = 0, codec=None
) -> None:
    """Draws random examples of every task into a PNG file.

    Args:
      count: examples over all tasks, at least one of each.
      codec: decodes latents (encoders.AutoencoderCodec); None is right for stored pixels, and draws
        the first three channels of latents as colours.

    Raises PreparedError when the folder is no prepared folder.
    """
    prepared, rng = PreparedFolder(folder), np.random.default_rng(seed)
    scaling, tasks = prepared.pictures.get("scaling_factor"), prepared.definitions
    rows = []
    for task in prepared.tasks:
        splits = [(s, prepared.records(task, s)) for s in ("train", "held_out")]
        places = [(s, records, i) for s, records in splits for i in range(len(records))[:100_000]]
        chosen = rng.permutation(len(places))[: max(1, count // len(prepared.tasks))]
        for split, records, index in (places[c] for c in chosen):
            decoding = Decoding(LightCodec(), scaling, tasks.task(task).max_frames, tasks=tasks)
            bundle = Stored(records[index], decoding).bundle(rng)
            roles = tasks.task(task).roles(len(bundle.frames))
            drawn = [
                _drawn(frame, role, codec) for frame, role in zip(bundle.frames, roles, strict=True)
            ]
            cells = {"truth": drawn[:1], "given": drawn[1:], "generated": []}
            rows.append((f"{task} ({split})", bundle.prompt, cells))
    Image.fromarray(draw_sheet(rows)).save(out)
    print(f"{len(rows)} examples of {folder} drawn to {out}")


def _drawn(frame: np.ndarray, role: str, codec) -> np.ndarray:
    if frame.dtype == np.uint8 or role == "ray" or codec is not None:
        return picture(frame.astype(np.float32) if role == "ray" else frame, codec, role)
    values = frame[..., :3].astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return (grey * 255).astype(np.uint8).repeat(8, 0).repeat(8, 1)

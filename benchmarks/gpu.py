"""What one GPU reaches: kernels against the reference, the train step beside PyTorch, a soak.

    python benchmarks/gpu.py [--only=kernels,base,released,soak] [--rounds=20]

Eight minutes on one H100 or H200. Prints the tables of docs/benchmarks.md:

    kernels    every attention kernel that runs here beside the plain one in float32: the largest
               error of the result and its gradients, as a share of the largest number, and the time
               forward and backward
    base       the train step of the preset, then of the released shape as deep as the memory
    released   holds, beside the same network in PyTorch (bfloat16 by autocast, flex_attention with
               the soft cap, torch.compile), by turns: time, MFU, memory, and `aot`'s bound
    soak       2,000 steps of a small network through cuDNN's and the other kernels: none may have a
               gradient that is not finite

The memory of both sides is what their own allocators count at the peak.
"""

import argparse
import collections
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs a share

import jax
import jax.numpy as jnp
import numpy as np
import preset
from timing import in_turn, progress, table

from onediff_jax.models.attention import gpu
from onediff_jax.models.attention.dispatch import attention
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.train_step import sharded_train_step
from onediff_jax.scaling.flops import model_flops
from onediff_jax.scaling.peaks import peak_flops

PARTS = ("kernels", "base", "released", "soak")
# Queries, keys, heads, heads of keys, channels: base's multiview, the released shape at 512 × 512
# (self-attention, then captions), and no whole tiles.
SHAPES = ((2048, 2048, 16, 4, 72), (1024, 1024, 32, 8, 120), (1024, 300, 32, 8, 120))
SMALL_SHAPES = ((70, 90, 4, 2, 24),)
SOFTCAP = 30.0
RELEASED = {"hidden_size": 3840, "num_heads": 32, "num_kv_heads": 8, "caption_channels": 2048}
TOPOLOGIES = {"H100": "h100:1", "H200": "h200:1", "A100-SXM4-80GB": "a100-80:1"}


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints tables and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs, on a CPU")
    args = parser.parse_args(argv)
    parts = args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only={args.only}: {sorted(unknown)} must be some of {','.join(PARTS)}")
    if jax.default_backend() != "gpu" and not args.smoke:
        parser.error(f"jax sees no GPU here, only {jax.default_backend()}; --smoke runs on a CPU")
    rounds = 1 if args.smoke else args.rounds
    ends = [globals()[f"_{part}"](rounds, args.smoke) for part in parts]
    print(f"\nOn {jax.devices()[0].device_kind}: {'; '.join(filter(None, ends))}.")


def _kernels(rounds: int, smoke: bool) -> str:
    """Agreement and time of every implementation of attention; what was worst, in words."""
    lines, worst = [], 0.0
    for shape in SMALL_SHAPES if smoke else SHAPES:
        tokens, keys, heads, kv_heads, channels = shape
        generator = np.random.default_rng(0)
        sizes = ((2, tokens, heads), (2, keys, kv_heads), (2, keys, kv_heads), (2, tokens, heads))
        exact = [jnp.asarray(generator.normal(size=(*s, channels)), jnp.float32) for s in sizes]
        mask = jnp.asarray(generator.random((2, keys)) < 0.9)
        for softcap in (SOFTCAP, None):
            runs: dict[str, Callable[[], object]] = {}
            errors: dict[str, list[float]] = {}
            attend = functools.partial(attention, mask=mask, softcap=softcap)
            want = _with_gradients(functools.partial(attend, implementation="reference"))(*exact)
            for name in _implementations(softcap, smoke):
                run = _with_gradients(functools.partial(attend, implementation=name))
                arrays = [x.astype(jnp.bfloat16) for x in exact]
                found = run(*arrays)
                errors[name] = [
                    float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max())
                    for a, b in zip(found, want, strict=True)
                ]
                runs[name] = functools.partial(_finished, run, arrays)
            cost = in_turn(runs, rounds)
            size = f"{tokens} × {keys}, {heads}/{kv_heads} × {channels}"
            for name, (out, *gradients) in errors.items():
                worst = max(worst, out, *gradients)
                lines.append(
                    (f"{name}, cap {softcap}: {size}", out, max(gradients), 1000 * cost[name].wall)
                )
    table(("attention in bfloat16", "error forward", "error of gradients", "ms, both"), lines)
    if worst > 0.05:
        raise RuntimeError(f"a kernel is {worst:.3f} of the largest number away from the reference")
    return f"kernels agree with float32 to {worst:.4f} of the largest number"


def _implementations(softcap: float | None, smoke: bool) -> list[str]:
    if smoke:
        return ["chunked", "triton"]
    best = gpu.best(jnp.dtype(jnp.bfloat16), softcap=softcap)
    found = ["chunked", "triton", *([] if softcap else ["cudnn"])]
    return found if best is None or best in found else [*found, best]


def _with_gradients(attend: Callable) -> Callable:
    """q, k, v, weights → the result and the gradients of a weighted sum of it."""

    def loss(q, k, v, weights):
        out = attend(q, k, v)
        return (out.astype(jnp.float32) * weights.astype(jnp.float32)).sum(), out

    gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
    return jax.jit(lambda *arrays: [(r := gradient(*arrays))[1], *r[0]])


def _finished(run: Callable, arrays: Sequence) -> None:
    jax.block_until_ready(run(*arrays))


def _base(rounds: int, smoke: bool) -> str:
    config = _one_slot(smoke, "depth2image", ("i2i", 1, 2, 4 if smoke else 256))
    return _beside_torch("base", config, rounds, smoke)


def _released(rounds: int, smoke: bool) -> str:
    """One layer has 175 M parameters, 20 bytes each: 8 of the 16 layers and their activations."""
    changes = {} if smoke else {f"model__{name}": value for name, value in RELEASED.items()}
    slot = ("t2i", 1, 1, 4 if smoke else 1024)
    changes |= {"model__depth": 2 if smoke else 8, "model__remat": "attention"}
    config = _one_slot(smoke, "text2image", slot, **changes)
    return _beside_torch(f"released shape, {config.model.depth} layers", config, rounds, smoke)


def _one_slot(smoke: bool, task: str, slot: tuple, **changes):
    """`base` with rows of one slot and one task; a network of the same kind for a smoke test."""
    name = "tiny" if smoke else "base"
    tasks = {f"data__tasks__{t}": float(t == task) for t in preset.load(name).data.tasks}
    return preset.load(name, smoke=smoke, rows=(slot,), **{**tasks, **changes})


def _beside_torch(name: str, config, rounds: int, smoke: bool) -> str:
    """The step of a config and the same in PyTorch, by turns."""
    import torch
    from torch_step import torch_step

    training = preset.Training(config)
    batch, state = training.batch(), training.first_state()
    compiled = training.step.lower(state, batch).compile()

    def ours() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    device = "cpu" if smoke else "cuda"
    if smoke:
        torch.set_num_threads(1)
    theirs = torch_step(config, batch, device=device, compile=not smoke)
    cost = in_turn({"onediff_jax": ours, "PyTorch": theirs}, rounds)
    kind = jax.devices()[0].device_kind
    flops, peak = model_flops(config).total, peak_flops(kind)
    stats = jax.devices()[0].memory_stats() or {}
    memory = {
        "onediff_jax": stats.get("peak_bytes_in_use", 0) / 2**30,
        "PyTorch": 0.0 if smoke else torch.cuda.max_memory_allocated() / 2**30,
    }
    rows = config.train.batch_rows
    table(
        (f"{name}, {rows} rows", "ms", "TFLOP/s", "MFU", "GiB at the peak", "÷ PyTorch"),
        (
            (
                side,
                1000 * c.wall,
                flops / c.wall / 1e12,
                f"{flops / c.wall / peak:.1%}" if peak else "unknown",
                memory[side],
                c.wall / cost["PyTorch"].wall,
            )
            for side, c in cost.items()
        ),
    )
    ratio = cost["onediff_jax"].wall / cost["PyTorch"].wall
    says = f"a step of {name} takes {ratio:.2f}× the time of PyTorch {torch.__version__}"
    topology = next((t for k, t in TOPOLOGIES.items() if k in kind), None)
    if topology is None:
        print(f"\n{name}: no bound is compiled for {kind!r}")
        return says
    bound = _bound(config, topology)
    print(
        f"\n{name}: aot's bound on {topology} is {1000 * bound:.1f} ms, the step takes "
        f"{cost['onediff_jax'].wall / bound:.2f}× that; where its time goes:"
    )
    table(("instructions of a step", "ms", "share"), _profile(ours))
    return f"{says}, {cost['onediff_jax'].wall / bound:.2f}× aot's bound"


def _bound(config, topology: str) -> float:
    """The least seconds of the step, compiled by another process."""
    progress(f"aot for {topology}")
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "config.py", Path(folder) / "report.json"
        file.write_text(
            "import json\nfrom ml_collections import ConfigDict\n"
            "def listed(x): return tuple(map(listed, x)) if isinstance(x, list) else x\n"
            "def walk(d): return {k: walk(v) if isinstance(v, dict) else listed(v) "
            "for k, v in d.items()}\n"
            f"def get_config(): return ConfigDict(walk(json.loads({config.to_json()!r})))\n"
        )
        command = [sys.executable, "-m", "onediff_jax.aot", f"--config={file}"]
        subprocess.run(
            [*command, f"--topology={topology}", f"--out={out}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return json.loads(out.read_text())["roofline"]["step"]


def _profile(run: Callable[[], None]) -> list[tuple[str, float, float]]:
    """The instructions that take most of a run on the device: name, ms, share."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        file = next(Path(folder).rglob("*.xplane.pb"))
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    spent: collections.Counter[str] = collections.Counter()
    for plane in planes:
        if "/device:GPU" not in plane.name:
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    spent[re.sub(r"[._]\d+$", "", event.name)[:60]] += event.duration_ns
    whole = sum(spent.values())
    return [(name, ns / 1e6, ns / whole) for name, ns in spent.most_common(8)]


def _soak(rounds: int, smoke: bool) -> str:
    """Steps whose every gradient must be finite; captions of all lengths, empty ones too."""
    changes = {
        "model__dtype": "bfloat16",
        "train__caption_dropout": 0.5,
        "optim__learning_rate": 1e-3,
    }
    config = preset.load("tiny", smoke=smoke, **changes)
    steps = 3 if smoke else 2000
    training = preset.Training(config)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    tx, schedule = make_optimizer(config.optim, config.train.steps)
    step, _, _ = sharded_train_step(training.experiment, tx, schedule, mesh)
    stream, state, metrics = training.experiment.batches(), training.first_state(), None
    for number in range(steps):
        state, metrics = step(state, next(stream), None)
        if number % 200 == 0:
            progress(f"soak: step {number}/{steps}, loss {float(metrics['loss']):.4f}")
    stream.close()
    skipped, loss = int(metrics["skipped"]), float(metrics["loss"])
    table(
        ("soak", "steps", "not finite", "last loss"), [("tiny in bfloat16", steps, skipped, loss)]
    )
    if skipped:
        raise RuntimeError(f"{skipped} of {steps} steps had a gradient that is not finite")
    return f"{steps} steps, none with a gradient that is not finite"


if __name__ == "__main__":
    main()

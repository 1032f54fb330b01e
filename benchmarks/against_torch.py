"""The train step on a CPU beside the same one in eager PyTorch.

    python benchmarks/against_torch.py [--rounds=10]

Both train the same network (14 M parameters, float32) on one bundle of 2 × 256 tokens: noise, loss,
gradient, clipping, AdamW and moving average, with as many threads as there are cores, by turns.
PyTorch's network is the one that exported folders carry. Ours can leave padding out and skip a step
that is not finite; PyTorch's step does neither.
"""

import argparse
import os
from collections.abc import Sequence

import jax
import preset
import torch
from timing import in_turn, table
from torch_step import torch_step

MODEL = {
    "hidden_size": 384,
    "depth": 6,
    "num_heads": 8,
    "num_kv_heads": 4,
    "multiple_of": 64,
    "caption_channels": 64,
}
SMALL = {"hidden_size": 48, "depth": 2, "num_kv_heads": 2, "multiple_of": 16}


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints a table and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    model = MODEL | (SMALL if args.smoke else {})
    tokens = 4 if args.smoke else 256
    config = preset.load(
        "tiny",
        rows=(("i2i", 1, 2, tokens),),
        train__batch_rows=1,
        optim__name="adamw",  # PyTorch's
        data__scenes=16,
        **{f"model__{name}": value for name, value in model.items()},
        **{
            f"data__tasks__{name}": float(name == "depth2image")
            for name in preset.load("tiny").data.tasks
        },
    )
    training = preset.Training(config)
    batch, state = training.batch(), training.first_state()
    params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    compiled = training.step.lower(state, batch).compile()

    def ours() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs = torch_step(config, batch)
    cost = in_turn({"onediff_jax": ours, "PyTorch": theirs}, 1 if args.smoke else args.rounds)
    jax_cost, torch_cost = cost["onediff_jax"], cost["PyTorch"]
    table(
        (f"{params / 1e6:.1f} M parameters, {2 * tokens} tokens", "ms", "CPU ms", "÷ PyTorch"),
        ((k, 1000 * c.wall, 1000 * c.cpu, c.wall / torch_cost.wall) for k, c in cost.items()),
    )
    print(
        f"\nOn {torch.get_num_threads()} threads a step takes {jax_cost.wall / torch_cost.wall:.2f}"
        f"× the time of eager PyTorch {torch.__version__}, and "
        f"{jax_cost.cpu / torch_cost.cpu:.2f}× its CPU time."
    )


if __name__ == "__main__":
    main()

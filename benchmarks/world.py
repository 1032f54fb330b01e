"""How fast the embedded world is: renders with all ground truth, and examples of every task.

    python benchmarks/world.py [--scenes=8] [--rounds=5]

A render makes the picture, depth, classes, instances, boxes and keypoints of a scene that exists; a
bundle is an example as a preset trains on it, with all that belongs to it: scenes, one or more
renders, conditions, caption. One thread; "per core" is per second of CPU time.
"""

import argparse
from collections.abc import Callable, Sequence

import preset
from timing import in_turn, table

from onediff_jax.data.world import World
from onediff_jax.experiment.build import Experiment, make_experiment
from onediff_jax.tasks.definitions import TASKS

LEVELS = ("simple", "rich")
SIDES = (64, 128, 256)


def renders(level: str, side: int, scenes: int) -> Callable[[], None]:
    """Renders that many scenes, which are made beforehand."""
    world = World(seed=0, level=level)
    made = [world.scene(number) for number in range(scenes)]

    def run():
        for scene in made:
            world.render(scene, side, side)

    return run


def bundles(experiment: Experiment, task: str, count: int) -> Callable[[], None]:
    """Makes that many bundles of a task as a preset has them, other ones each time."""
    source = experiment.bundles(task)
    numbers = iter(range(len(source)))

    def run():
        for _ in range(count):
            source[next(numbers)]

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints two tables and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=8, help="per run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    sides, presets, tasks = SIDES, ("tiny", "base"), tuple(TASKS)
    if args.smoke:
        args.scenes = args.rounds = 1
        sides, presets, tasks = SIDES[:1], presets[:1], tasks[:2]

    cases = [(level, side) for side in sides for level in LEVELS]
    cost = in_turn({str(c): renders(*c, args.scenes) for c in cases}, args.rounds)
    rate = {c: args.scenes / cost[str(c)].cpu for c in cases}
    table(
        (
            "renders per s per core",
            "simple",
            "rich",
            "simple ÷ rich",
            "simple, Mpixel/s",
            "rich, Mpixel/s",
        ),
        (
            (
                f"{side} × {side}",
                *(rate[level, side] for level in LEVELS),
                rate["simple", side] / rate["rich", side],
                *(rate[level, side] * side**2 / 1e6 for level in LEVELS),
            )
            for side in sides
        ),
    )
    print()
    # Nothing is kept: views that other tasks rendered would count as made here.
    experiments = {p: make_experiment(preset.load(p, data__cache_gib=0.0)) for p in presets}
    made = {f"{p} {t}": bundles(e, t, args.scenes) for p, e in experiments.items() for t in tasks}
    cost = in_turn(made, max(1, args.rounds // 2))
    each = {name: args.scenes / c.cpu for name, c in cost.items()}
    table(
        ("bundles per s per core", *presets),
        ((t, *(each[f"{p} {t}"] for p in presets)) for t in tasks),
    )
    busy = max(c.cpu / c.wall for c in cost.values())
    slow = min(tasks, key=lambda t: each[f"tiny {t}"])
    print(
        f"\nOne core renders {rate['simple', sides[0]]:.0f} simple scenes of {sides[0]} × "
        f"{sides[0]} per second, {rate['simple', sides[0]] / rate['rich', sides[0]]:.1f}× as many "
        f"as rich ones; the slowest task of tiny is {slow} with {each[f'tiny {slow}']:.0f} bundles "
        f"per second. CPU time was at most {busy:.2f} of the time on the clock."
    )


if __name__ == "__main__":
    main()

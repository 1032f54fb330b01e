"""What an export says of itself: defaults and tasks for the pipeline, and the model card."""

from typing import Any

from onediff_jax.experiment.build import Experiment
from onediff_jax.tasks.definitions import Task

# What a prompt carries after its token, where it is more than a caption.
_PROMPTS = {
    "semanticmap2image": "<#00FFFF cyan mask: cube> a caption",
    "boundingbox2image": "<#00FFFF cyan boundingbox: cube> a caption",
    "image_editing": "make the cube blue",
    "faceid": "[[img0]] the new picture [[img1]] the given one",
    "subject_driven": "<item: cube> [[img0]] the new picture [[img1]] the given one",
}


def trained_tasks(experiment: Experiment) -> list[Task]:
    """The tasks that the run trained."""
    weights = experiment.config.data.tasks.items()
    return [experiment.tasks.task(name) for name, weight in weights if weight]


def index_fields(experiment: Experiment, steps: dict[str, int]) -> dict[str, Any]:
    """Fields of model_index.json: what calls do that do not say, and the tasks as data.

    Args:
      steps: of directions that need another number than the others.
    """
    log = experiment.config.log
    return {
        "defaults": {
            "num_inference_steps": int(log.sample_steps),
            "steps": steps,
            "guidance_scale": float(log.guidance),
            "sizes": {
                group: [list(size) for size in sizes] for group, sizes in experiment.sizes.items()
            },
        },
        "tasks": {task.name: as_data(task) for task in trained_tasks(experiment)},
    }


def prompt(task: Task) -> str:
    """An example of a task's prompt."""
    return f"{task.token} {_PROMPTS.get(task.name, 'a caption')}"


def as_data(task: Task) -> dict[str, Any]:
    """A task as model_index.json has it; interop/torch_files/tasks_torch.py reads it."""
    return {
        "frames": list(task.frames),
        "repeats": task.repeats,
        "prompt": prompt(task),
        "directions": {
            direction.name: (
                direction.generate
                if isinstance(direction.generate, str)
                else list(direction.generate)
            )
            for direction in task.directions
        },
    }

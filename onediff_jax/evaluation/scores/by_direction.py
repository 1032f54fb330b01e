"""The scores of a direction: those that its task asks for, as its frames' roles say."""

from collections.abc import Callable, Sequence

from onediff_jax.evaluation.scores import maps, pictures, views
from onediff_jax.evaluation.scores.case import Asked, Case, Row
from onediff_jax.evaluation.scores.shown_colors import ColorDetector
from onediff_jax.evaluation.scores.typical import Typical
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

# Name of a measure, as roles and directions have it → what computes it.
MEASURES: dict[str, Callable[[Asked], list[Row]]] = {
    "cameras": views.cameras,
    "classes": maps.classes,
    "colours": pictures.colours,
    "depth": maps.depth,
    "edges": pictures.edges,
    "edit": pictures.edit,
    "hole": pictures.hole,
    "painted": maps.painted,
    "person": pictures.person,
    "picture": pictures.picture,
    "restored": pictures.restored,
    "strength": maps.strength,
    "subject": pictures.subject,
    "views": views.views,
}


def score(
    direction: str,
    cases: Sequence[Case],
    typical: Typical,
    detector: ColorDetector,
    tasks: TaskSet = BUILT_IN,
) -> list[Row]:
    """The rows of one direction.

    Args:
      direction: name of a task or reverse direction, e.g. "image2depth".
      cases: at least one.
      typical: averages over training examples of the same task.
      detector: of the world's colours.
      tasks: where the direction is looked up.

    Raises ValueError for an unknown direction; lists those that there are.
    """
    task, _ = tasks.find_direction(direction)
    mask = task.denoise_mask(direction, task.min_frames)
    given = mask.index(0) if 0 in mask else None
    rows = []
    for measure, frame in task.measures(direction):
        rows += MEASURES[measure](Asked(direction, frame, given, cases, typical, detector))
    return rows

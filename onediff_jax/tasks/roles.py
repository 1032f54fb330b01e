"""Every role a frame can have; a new one is a class in the file of its family, and a line here."""

from onediff_jax.tasks.degraded import Blurred, LowResolution, Masked
from onediff_jax.tasks.depth import Depth
from onediff_jax.tasks.edges import Canny, SoftEdges
from onediff_jax.tasks.pictures import OrdinaryPicture, PlainPicture, Source
from onediff_jax.tasks.pose import Pose
from onediff_jax.tasks.rays import Ray
from onediff_jax.tasks.regions import BoundingBoxes, SemanticMap
from onediff_jax.tasks.role import Role

ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        OrdinaryPicture(),
        Source(),
        Depth(),
        SemanticMap(),
        BoundingBoxes(),
        Pose(),
        Canny(),
        SoftEdges(),
        Blurred(),
        LowResolution(),
        Masked(),
        Ray(),
    )
}


def get_role(name: str) -> Role:
    """The role of that name; a name that is not known is a plain picture."""
    return ROLES.get(name) or PlainPicture(name)

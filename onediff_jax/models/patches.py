"""Latent frames to tokens and back."""

from jaxtyping import Array, Float


def patchify(latents: Float[Array, "b f h w c"], patch: int) -> Float[Array, "b f t p"]:
    """Frames to tokens, row-major; a token is a patch flattened (row, column, channel)."""
    b, f, h, w, c = latents.shape
    x = latents.reshape(b, f, h // patch, patch, w // patch, patch, c)
    return x.swapaxes(3, 4).reshape(b, f, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(
    tokens: Float[Array, "b f t p"], height: int, width: int, patch: int
) -> Float[Array, "b f h w c"]:
    """The inverse of `patchify`, for frames of height × width latents."""
    b, f, _, p = tokens.shape
    x = tokens.reshape(b, f, height // patch, width // patch, patch, patch, p // patch**2)
    return x.swapaxes(3, 4).reshape(b, f, height, width, p // patch**2)

"""The bridge to PyTorch: released names and layouts, and diffusers folders.

Importing this package is cheap: jax loads with the first call.
"""


def load_pretrained(folder, **options):
    """The network of a released folder or hub id; see interop/pretrained.py."""
    from onediff_jax.interop.pretrained import load_pretrained as load

    return load(folder, **options)


def save_pretrained(model, folder, **options):
    """Writes a network in the released layout; see interop/pretrained.py."""
    from onediff_jax.interop.pretrained import save_pretrained as save

    return save(model, folder, **options)

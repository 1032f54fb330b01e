"""Networks and encoders. Importing this package is cheap: jax loads with the first network."""


def load_autoencoder(folder, **options):
    """The Flax form of a diffusers AutoencoderKL folder; see models/autoencoder.py."""
    from onediff_jax.models.autoencoder import load_autoencoder as load

    return load(folder, **options)


def load_text_encoder(folder, **options):
    """The Flax form of a transformers T5 encoder folder; see models/t5.py."""
    from onediff_jax.models.t5 import load_text_encoder as load

    return load(folder, **options)

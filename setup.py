"""What pyproject.toml cannot say: configs/ lies beside the package here, inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["onediff_jax*"]), "onediff_jax.configs"],
    package_dir={"onediff_jax.configs": "configs"},
)

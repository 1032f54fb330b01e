"""The bridge to PyTorch: released names and layouts, and diffusers folders."""

"""Attention: one entry, `dispatch.attention`, and the kernels behind it."""

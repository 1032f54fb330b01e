"""Sampling from a run or an exported folder: requests, packed rows, pictures."""

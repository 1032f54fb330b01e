"""Held-out examples, scores beside their controls, contact sheets."""

"""Data: the procedural world, sources and the pipeline."""

"""A training run: the step, the loop around it, its state, and what it writes."""

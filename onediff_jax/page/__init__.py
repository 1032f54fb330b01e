"""The page to play with: what it asks of a model (studio.py), and how it looks (layout.py)."""

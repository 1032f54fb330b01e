"""Devices: the mesh, what is sharded how, and many processes."""

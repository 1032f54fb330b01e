"""Prepared folders: encoded training examples in ArrayRecord shards, written once, read often."""

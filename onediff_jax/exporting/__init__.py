"""What an export is made of: where it is written, its weights, its encoders, and the hub."""

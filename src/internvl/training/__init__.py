"""Training: one config, one loop, objectives that are pure functions."""

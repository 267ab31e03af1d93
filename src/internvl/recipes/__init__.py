"""Training recipes: functions that return a `TrainConfig`."""

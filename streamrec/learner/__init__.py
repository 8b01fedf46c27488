"""The loop around models: one process at a time folds the examples of all workers, and publishes what changed."""

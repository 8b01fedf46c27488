"""`tools/bench`: events per second, the ceiling of the same loop with nothing learned, and where the time goes."""

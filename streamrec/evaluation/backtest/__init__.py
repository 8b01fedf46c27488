"""A run over a log of the past: each event is predicted before it is learned, and the figures make a report."""

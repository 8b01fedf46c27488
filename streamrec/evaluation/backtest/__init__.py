"""Prequential evaluation on a historical log: each target is ranked before it is learned; metrics and a report."""

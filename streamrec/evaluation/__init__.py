"""How good is it? Backtests, off-policy evaluation, experiments and simulation, each with a report."""

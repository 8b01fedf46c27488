"""From the scores of many models to one utility."""

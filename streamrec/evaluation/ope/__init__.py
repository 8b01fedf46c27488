"""Off-policy evaluation: what a policy would have earned, from the log of another that noted its propensities.

    topic or file -> rounds -> weights -> reward model -> estimators -> intervals -> report

Knows nothing of workers, models of this system or Kafka: a reader hands over columns.
"""

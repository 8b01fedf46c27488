"""Off-policy evaluation (OPE): the value of a target policy, from the log of another policy with its propensities.

    topic or file -> rounds -> weights -> reward model -> estimators -> intervals -> report

Knows nothing of workers, Kafka or this system's models: readers hand over columns.
"""

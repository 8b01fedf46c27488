"""Historical logs: reading them as events, and what a run over one leaves behind (slates, metrics, a report).

Knows nothing of Kafka, Redis or models.
"""

"""The door: events and requests in over HTTP, slates out.

Everything goes through the log: what comes in is published to the topics of events and items, slates are read from
theirs, and users and items are looked up read-only. Knows nothing of models, and names no Kafka or Redis of its own:
`wiring/gateway.py` does.
"""

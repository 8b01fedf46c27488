"""Reads historical logs and catalogues from files, as typed events and items, and warms models up on a log.

Knows nothing of Kafka or Redis.
"""

"""The engine: what is remembered, retrieved, scored, fused and decided, and what is learned from it.

Pure: arrays and events go in, slates and arrays come out. Knows nothing of Kafka, Redis, HTTP, settings, the
environment or the clock; time and randomness come in as arguments. `pipeline.py` has the whole of it on one screen.
"""

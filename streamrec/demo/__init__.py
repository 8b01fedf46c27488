"""The demonstration: a real shop log sent live through a broker, a worker and a Redis server of its own.

A client of the system like any other: it sends events, reads slates, and judges them by what was bought next.
"""
